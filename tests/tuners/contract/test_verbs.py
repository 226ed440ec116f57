"""peft's verbs on a living model: add, set, disable, delete, unload, merge, mix."""

from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, PeftType

from peterrec.encoders import NextItNet
from peterrec.tuners import PatchConfig

TIGHT = {"rtol": 1e-5, "atol": 1e-5}


def test_adapters_are_added_set_and_deleted(case):
    model, ids = case.trained(), case.ids()
    first = case.hidden(model, ids)
    case.add(model, "second")
    assert model.active_adapters == ["default"]
    assert torch.equal(case.hidden(model, ids), first), "a new adapter is not active by itself"
    model.set_adapter("second")
    case.train(model, seed=12)
    second = case.hidden(model, ids)
    assert not torch.allclose(second, first, atol=1e-3)
    model.set_adapter("default")
    assert torch.equal(case.hidden(model, ids), first)
    model.delete_adapter("second")
    assert not [name for name in model.state_dict() if "second" in name]
    assert list(model.peft_config) == ["default"]
    assert torch.equal(case.hidden(model, ids), first)


def test_a_second_adapter_starts_as_the_encoder(case):
    model, ids = case.trained(), case.ids()
    case.add(model, "second")
    model.set_adapter("second")
    torch.testing.assert_close(case.hidden(model, ids), case.hidden(case.encoder(), ids), rtol=0, atol=1e-5)


def test_the_active_adapter_can_be_deleted(case):
    model, ids = case.two(), case.ids()
    model.set_adapter("second")
    second = case.hidden(model, ids)
    model.delete_adapter("default")
    assert torch.equal(case.hidden(model, ids), second)
    assert not [name for name in model.state_dict() if "default" in name]


def test_a_disabled_adapter_is_the_frozen_encoder(case):
    model, ids = case.trained(), case.ids()
    trained = case.hidden(model, ids)
    with model.disable_adapter():
        assert torch.equal(case.hidden(model, ids), case.hidden(case.encoder(), ids))
    assert torch.equal(case.hidden(model, ids), trained)
    assert [name for name, p in model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_unload_gives_the_exact_encoder_back(case, block):
    wanted = case.encoder(block).state_dict()
    encoder = case.trained(block).unload()
    assert isinstance(encoder, NextItNet)
    assert set(encoder.state_dict()) == set(wanted)
    assert [type(m) for m in encoder.modules()] == [type(m) for m in case.encoder(block).modules()]
    for name, tensor in encoder.state_dict().items():
        assert tensor.numpy().tobytes() == wanted[name].numpy().tobytes(), name
    model = case.wrap(encoder)
    assert len(model.peft_config) == 1


@pytest.mark.parametrize("safe", [False, True], ids=["plain", "safe"])
def test_merge_and_unload(case, safe):
    model, ids = case.trained(), case.ids()
    trained = case.hidden(model, ids)
    encoder = model.merge_and_unload(safe_merge=safe)
    assert isinstance(encoder, NextItNet)
    torch.testing.assert_close(case.hidden(encoder, ids), trained, **TIGHT)
    assert set(encoder.state_dict()) == set(case.encoder().state_dict())


def test_merge_adapter_and_back(case):
    model, ids = case.trained(), case.ids()
    trained = case.hidden(model, ids)
    model.merge_adapter()
    torch.testing.assert_close(case.hidden(model, ids), trained, **TIGHT)
    model.unmerge_adapter()
    torch.testing.assert_close(case.hidden(model, ids), trained, **TIGHT)
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(case.hidden(model, ids), case.hidden(case.encoder(), ids), **TIGHT)
    torch.testing.assert_close(case.hidden(model, ids), trained, **TIGHT)


@pytest.mark.parametrize("verb", ["merge_and_unload", "merge_adapter"])
def test_a_refused_merge_says_why_and_leaves_the_model_whole(own, verb):
    if own.domains == 1:
        pytest.skip("merges")
    model, ids = own.trained(), own.ids()
    trained = own.hidden(model, ids)
    with pytest.raises(ValueError, match="export_domain" if own.domains else "not linear"):
        getattr(model, verb)()
    assert torch.equal(own.hidden(model, ids), trained)


def test_each_row_goes_through_its_own_adapter(case):
    model, ids = case.two(), case.ids()
    base = case.hidden(case.encoder(), ids)
    alone = {"__base__": base}
    for name in ("default", "second"):
        model.set_adapter(name)
        alone[name] = case.hidden(model, ids)
        assert not torch.allclose(alone[name][0], base[0], atol=1e-3)
    model.set_adapter("default")
    for names in (
        ["second", "default", "__base__", "second"],
        ["__base__", "second", "second", "default"],
        ["__base__"] * 4,
        ["second"] * 4,
    ):
        mixed = case.hidden(model, ids, names=names)
        for row, name in enumerate(names):
            torch.testing.assert_close(mixed[row], alone[name][row], **TIGHT)
    assert torch.equal(case.hidden(model, ids), alone["default"]), "a mixed batch leaves nothing behind"


def test_a_mixed_batch_is_refused_in_training(case):
    model = case.two().train()
    with pytest.raises(ValueError, match="adapter_names"):
        case.hidden(model, case.ids(), names=["default", "second", "default", "second"])


def test_an_unknown_name_in_a_mixed_batch_is_refused(own):
    with pytest.raises(ValueError, match="third"):
        own.hidden(own.two(), own.ids(), names=["default", "third", "default", "second"])


def test_a_mixed_batch_of_the_wrong_length_is_refused(own):
    with pytest.raises(ValueError, match="adapter_names"):
        own.hidden(own.two(), own.ids(), names=["default", "second"])


def test_disabled_adapters_stay_so_in_a_mixed_batch(case):
    model, ids = case.two(), case.ids()
    with model.disable_adapter():
        mixed = case.hidden(model, ids, names=["default", "second", "__base__", "second"])
    torch.testing.assert_close(mixed, case.hidden(case.encoder(), ids), **TIGHT)


def test_a_mixed_batch_is_refused_while_an_adapter_is_merged(own):
    if own.domains != 1:
        pytest.skip("cannot be merged")
    model = own.two()
    model.merge_adapter()
    with pytest.raises(ValueError, match="merged"):
        own.hidden(model, own.ids(), names=["default", "second", "default", "second"])


def with_one_on_other_blocks(own):
    model, config = own.trained(), own.config()
    config.layers_to_transform = [1]
    model.add_adapter("second", config)
    return model


def test_an_adapter_on_other_blocks_starts_as_the_encoder(own):
    model, ids = with_one_on_other_blocks(own), own.ids()
    model.set_adapter("second")
    assert torch.equal(own.hidden(model, ids), own.hidden(own.encoder(), ids))


def test_adapters_on_different_blocks_stand_in_one_model(own, tmp_path):
    model, ids = with_one_on_other_blocks(own), own.ids()
    first, base = own.hidden(model, ids), own.hidden(own.encoder(), ids)
    model.set_adapter("second")
    own.train(model, seed=12)
    second = own.hidden(model, ids)
    mixed = own.hidden(model, ids, names=["second", "default", "__base__", "second"])
    torch.testing.assert_close(mixed, torch.stack([second[0], first[1], base[2], second[3]]), **TIGHT)
    own.save(model, tmp_path)
    other = own.encoder()
    loaded = PeftModel.from_pretrained(other, tmp_path / "second", adapter_name="second", is_trainable=True).eval()
    assert torch.equal(own.hidden(loaded, ids), second)
    model.delete_adapter("default")
    assert torch.equal(own.hidden(model, ids), second)


def test_peft_reports_the_state_of_the_adapters(own):
    status = own.two().get_model_status()
    assert status.available_adapters == ["default", "second"]
    assert status.active_adapters == ["default"]
    assert status.enabled is True
    assert status.merged_adapters == []
    assert status.requires_grad == {"default": True, "second": False}
    trained = sum(p.numel() for p in own.read_only().parameters() if p.requires_grad)
    assert status.trainable_params == trained
    assert status.devices == {"default": ["cpu"], "second": ["cpu"]}


def test_two_active_adapters_are_both_heard(own):
    if own.readout == "tcl":
        with pytest.raises(ValueError, match="Only one adapter can be set at a time for TrainableTokensWrapper"):
            own.two().base_model.set_adapter(["default", "second"])
        own = replace(own, tcl=False)
    model, ids = own.two(), own.ids()
    first = own.hidden(model, ids)
    model.set_adapter("second")
    second = own.hidden(model, ids)
    model.base_model.set_adapter(["default", "second"])
    both = own.hidden(model, ids)
    assert not torch.allclose(both, first, atol=1e-3)
    assert not torch.allclose(both, second, atol=1e-3)


def test_another_kind_of_adapter_is_refused(case):
    is_lora = case.config().peft_type == PeftType.LORA
    other = PatchConfig(bottleneck=2) if is_lora else LoraConfig(r=2, target_modules=["conv.linear"])
    model, ids = case.trained(), case.ids()
    trained = case.hidden(model, ids)
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("second", other)
    assert list(model.peft_config) == ["default"]
    assert torch.equal(case.hidden(model, ids), trained)
