"""peft's verbs where patches differ in placement, width, norms and the rows of tokens they train."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils.other import AuxiliaryTrainingWrapper

from peterrec.tuners import PatchConfig, PatchLayer
from peterrec.tuners.layer import TunerLayer

TCL_ROW = {"embed_tokens": [2]}
PLACES = ["serial_conv", "serial_block", "parallel_conv", "parallel_unit"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def alone(model, ids, name):
    if name == "__base__":
        with model.disable_adapter():
            return model(ids).last_hidden_state
    model.set_adapter(name)
    return model(ids).last_hidden_state


def check_mixed(model, ids, names):
    wanted = torch.stack([alone(model, ids, name)[row] for row, name in enumerate(names)])
    for active in model.peft_config:
        model.set_adapter(active)
        mixed = model(ids, adapter_names=names).last_hidden_state
        torch.testing.assert_close(mixed, wanted, **CLOSE)
    return wanted


def test_rows_of_different_placements_mix(patch, add, ids):
    model = patch(placement="serial_conv", train_norms=True)
    add(model, "block", placement="serial_block", bottleneck=5, activation="gelu")
    add(model, "beside", seed=6, placement="parallel_conv", shortcut=True, layers_to_transform=[1])
    wanted = check_mixed(model, ids, ["block", "first", "__base__", "beside"])
    base = alone(model, ids, "__base__")
    for row in (0, 1, 3):
        assert not torch.allclose(wanted[row], base[row], atol=1e-2)


@pytest.mark.parametrize("placement", PLACES)
def test_rows_of_one_placement_mix(patch, add, ids, placement):
    model = patch(placement=placement, train_norms=True)
    add(model, "second", placement=placement, bottleneck=6)
    add(model, "third", seed=9, placement=placement, train_norms=True, layers_to_transform=[0])
    check_mixed(model, ids, ["third", "second", "first", "__base__"])
    check_mixed(model, ids, ["second"] * 4)


@pytest.mark.parametrize("with_row", ["first", "second", "both"])
def test_rows_with_a_trained_token_mix_with_rows_without(patch, add, ids, with_row):
    rows = {name: TCL_ROW if with_row in (name, "both") else None for name in ("first", "second")}
    model = patch(trainable_token_indices=rows["first"])
    add(model, "second", trainable_token_indices=rows["second"])
    assert any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules())
    check_mixed(model, ids, ["second", "first", "first", "second"])
    check_mixed(model, ids, ["__base__", "first", "second", "__base__"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("serial_conv", "parallel_unit"), ("parallel_unit", "serial_conv"), ("parallel_unit", "serial_block")],
)
def test_placements_that_would_nest_are_refused_and_nothing_changes(patch, ids, first, second):
    model = patch(placement=first)
    before, modules = model(ids).last_hidden_state, [type(module) for module in model.modules()]
    with pytest.raises(ValueError, match="inside"):
        model.add_adapter("second", PatchConfig(placement=second, bottleneck=2))
    assert list(model.peft_config) == ["first"]
    assert [type(module) for module in model.modules()] == modules
    assert torch.equal(model(ids).last_hidden_state, before)


def test_they_share_a_model_in_different_blocks(patch, add, ids):
    model = patch(placement="serial_conv", layers_to_transform=[0])
    add(model, "second", placement="parallel_unit", layers_to_transform=[1], train_norms=True)
    check_mixed(model, ids, ["second", "first", "first", "second"])


def test_what_a_deleted_adapter_wrapped_is_free_again(patch, add, ids):
    model = patch(placement="parallel_unit", train_norms=True)
    model.delete_adapter("first")
    assert not [module for module in model.modules() if isinstance(module, TunerLayer)]
    add(model, "second", placement="serial_conv")
    model.set_adapter("second")
    fresh = patch(placement="serial_conv", bottleneck=2, seed=5)
    assert torch.equal(model(ids).last_hidden_state, fresh(ids).last_hidden_state)


def test_after_a_deletion_one_adapter_is_active_everywhere(patch, add, ids):
    model = patch(placement="serial_block")
    add(model, "zeta", placement="serial_conv")
    add(model, "alpha", seed=8, placement="serial_block", train_norms=True)
    wanted = alone(model, ids, "zeta")
    model.set_adapter("first")
    with pytest.warns(UserWarning, match="Setting active adapter to zeta"):
        model.delete_adapter("first")
    assert model.active_adapters == ["zeta"]
    assert torch.equal(model(ids).last_hidden_state, wanted)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all(".zeta." in name for name in trained)


@pytest.mark.parametrize("placement", PLACES)
def test_unload_and_refused_merges(make, patch, ids, placement):
    model = patch(placement=placement, train_norms=True, trainable_token_indices=TCL_ROW)
    patched, frozen = model(ids).last_hidden_state, make()
    for verb in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="not linear"):
            verb()
        assert torch.equal(model(ids).last_hidden_state, patched), "nothing of it is merged"
    with pytest.raises(ValueError, match="nothing to unmerge"):
        model.unmerge_adapter()
    encoder = model.unload()
    assert [type(module) for module in encoder.modules()] == [type(module) for module in frozen.modules()]
    for name, tensor in frozen.state_dict().items():
        assert encoder.state_dict()[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
@pytest.mark.parametrize("placement", PLACES)
def test_save_and_load(make, patch, add, ids, tmp_path, placement, low_cpu_mem_usage):
    settings = {"placement": placement, "train_norms": True, "trainable_token_indices": TCL_ROW}
    model = patch(**settings)
    add(model, "second", **settings, layers_to_transform=[1])
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(
        make(), tmp_path / "first", adapter_name="one", low_cpu_mem_usage=low_cpu_mem_usage
    )
    again.load_adapter(str(tmp_path / "second"), adapter_name="two", low_cpu_mem_usage=low_cpu_mem_usage)
    again.eval()
    for name, own in (("first", "one"), ("second", "two")):
        assert torch.equal(alone(again, ids, own), alone(model, ids, name))
    assert not [name for name, p in again.named_parameters() if p.is_meta]
    again.save_pretrained(str(tmp_path / "again"))
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        written = (tmp_path / "again" / "one" / file).read_bytes()
        assert written.replace(b"true", b"false") == (tmp_path / "first" / file).read_bytes().replace(b"true", b"false")


@pytest.mark.parametrize("placement", PLACES)
def test_transformers_own_loading(make, patch, ids, tmp_path, placement):
    model = patch(placement=placement, train_norms=True)
    model.save_pretrained(str(tmp_path))
    encoder = make()
    encoder.load_adapter(str(tmp_path / "first"))
    assert torch.equal(encoder.eval()(ids).last_hidden_state, model(ids).last_hidden_state)


def test_two_active_adapters_are_applied_in_turn(patch, add):
    model = patch(placement="serial_conv")
    add(model, "second", placement="parallel_conv")
    model.base_model.set_adapter(["first", "second"])
    layer = model.base_model.model.blocks[0].unit1.conv
    x = torch.randn(2, 5, 8)

    def bottleneck(name, source):
        return layer.peterrec_patch_up[name](torch.relu(layer.peterrec_patch_down[name](source)))

    y = layer.base_layer(x)
    y = y + bottleneck("first", y)
    torch.testing.assert_close(layer(x), y + bottleneck("second", x))
    model.base_model.set_adapter(["second", "first"])
    y = layer.base_layer(x) + bottleneck("second", x)
    torch.testing.assert_close(layer(x), y + bottleneck("first", y))


@pytest.mark.parametrize("placement", PLACES)
def test_dropout_in_training_only_and_only_that_of_the_adapter(make, patch, ids, placement):
    model = patch(placement=placement, dropout=0.5)
    calm = patch(placement=placement)(ids).last_hidden_state
    assert torch.equal(model(ids).last_hidden_state, calm)
    model.train()
    first, second = model(ids).last_hidden_state, model(ids).last_hidden_state
    assert not torch.equal(first, second)


@pytest.mark.parametrize("placement", PLACES)
def test_a_bfloat16_encoder_keeps_its_adapter_in_float32(make, ids, placement):
    frozen = make().to(torch.bfloat16)
    wanted = frozen(ids).last_hidden_state
    model = get_peft_model(frozen, PatchConfig(placement=placement, bottleneck=2, train_norms=True)).eval()
    own = [p for p in model.parameters() if p.requires_grad]
    assert own
    assert all(p.dtype == torch.float32 for p in own)
    hidden = model(ids).last_hidden_state
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(hidden, wanted, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("placement", PLACES)
def test_under_autocast_it_starts_as_the_frozen_encoder(make, ids, placement):
    frozen, adapted = make(), make()
    for block in (*frozen.blocks, *adapted.blocks):
        block.fused = False  # in low precision it rounds elsewhere
    with torch.autocast("cpu", torch.bfloat16):
        wanted = frozen(ids).last_hidden_state
        model = get_peft_model(adapted, PatchConfig(placement=placement, bottleneck=2, train_norms=True)).eval()
        hidden = model(ids).last_hidden_state
    assert hidden.dtype == wanted.dtype
    assert torch.equal(hidden, wanted)


@pytest.mark.parametrize("placement", PLACES)
def test_a_patch_keeps_time_major_memory(patch, placement):
    model = patch(placement=placement, train_norms=True)
    layer = next(m for m in model.modules() if isinstance(m, PatchLayer))
    x = torch.randn(5, 4, 8).transpose(0, 1)
    for names in (None, ["first"] * 4, ["first", "__base__", "first", "__base__"]):
        assert layer(x, adapter_names=names).transpose(0, 1).is_contiguous()
