"""The patch tuner: its equation, identity at the start, frozen bytes, and peft's verbs."""

import hashlib
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.heads.classification import ClassificationHead
from peterrec.model import TaskModel
from peterrec.tuners import PatchConfig, PatchLayer


@pytest.fixture
def ids():
    ids = torch.randint(3, 53, (4, 9), generator=torch.Generator().manual_seed(1))
    ids[2, 5:] = 0
    return ids


def make(block="plain") -> NextItNet:
    torch.manual_seed(0)
    return NextItNet(
        NextItNetConfig(vocab_size=53, hidden_size=8, dilations=(1, 2, 4, 8), block=block, dropout=0.3)
    ).eval()


def digest(model, *, skip=("peterrec_patch", "modules_to_save", "token_adapter")):
    sha = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not any(part in name for part in skip):
            sha.update(tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def train(model, ids, steps=5):
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        model(ids).user_vector.square().sum().backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_a_patched_encoder_starts_as_the_frozen_one_exactly(block, ids):
    encoder = make(block)
    before = encoder(ids).last_hidden_state
    patched = get_peft_model(encoder, PatchConfig(bottleneck=2))
    assert torch.equal(patched(ids).last_hidden_state, before)


def test_the_patch_is_its_equation(ids):
    patched = get_peft_model(make(), PatchConfig(bottleneck=2))
    layer = patched.base_model.model.blocks[0].unit1.conv
    assert isinstance(layer, PatchLayer)
    down, up = layer.peterrec_patch_down["default"], layer.peterrec_patch_up["default"]
    torch.nn.init.normal_(up.weight)
    torch.nn.init.normal_(up.bias)
    x = torch.randn(3, 5, 8)
    y = layer.base_layer(x)
    wanted = y + torch.relu(y @ down.weight.T + down.bias) @ up.weight.T + up.bias
    torch.testing.assert_close(layer(x), wanted)
    assert layer(x.transpose(0, 1).contiguous().transpose(0, 1)).transpose(0, 1).is_contiguous()


def test_one_patch_a_dilated_convolution_and_none_on_point_wise_maps():
    for block, convolutions in (("plain", 4), ("bottleneck", 4)):
        patched = get_peft_model(make(block), PatchConfig(bottleneck=2))
        layers = [m for m in patched.modules() if isinstance(m, PatchLayer)]
        assert len(layers) == convolutions
        assert all(m.base_layer.kernel_size == 3 for m in layers)


def test_patches_in_chosen_blocks_only():
    patched = get_peft_model(make(), PatchConfig(bottleneck=2, layers_to_transform=[1]))
    names = [name for name, module in patched.named_modules() if isinstance(module, PatchLayer)]
    assert names == [f"base_model.model.blocks.1.unit{unit}.conv" for unit in (1, 2)]


def test_only_the_patch_trains_and_frozen_bytes_stay(ids):
    patched = get_peft_model(make(), PatchConfig(bottleneck=2, trainable_token_indices={"embed_tokens": [2]}))
    trained = {name for name, p in patched.named_parameters() if p.requires_grad}
    assert trained
    assert all("peterrec_patch" in name or "trainable_tokens" in name for name in trained)
    assert sum(p.numel() for p in patched.parameters() if p.requires_grad) == 4 * (8 * 2 + 2 + 2 * 8 + 8) + 8
    frozen, before = digest(patched), patched(ids).user_vector.clone()
    train(patched, ids)
    assert digest(patched) == frozen
    assert not torch.equal(patched(ids).user_vector, before)


def test_save_and_load(tmp_path, ids):
    patched = train(get_peft_model(make(), PatchConfig(bottleneck=2)), ids)
    patched.save_pretrained(tmp_path)
    assert {f.name for f in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    again = PeftModel.from_pretrained(make(), tmp_path).eval()
    assert torch.equal(again(ids).user_vector, patched(ids).user_vector)


def test_head_and_tcl_row_travel_with_the_patch(tmp_path, ids):
    def task():
        torch.manual_seed(0)
        model = TaskModel(make(), ClassificationHead(8, 3), readout="mean")
        model.freeze_encoder()
        return model

    config = PatchConfig(bottleneck=2, modules_to_save=["head"], trainable_token_indices={"embed_tokens": [2]})
    model = get_peft_model(task(), config).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    with_tcl = torch.cat([ids, torch.full((4, 1), 2)], dim=1)
    for _ in range(3):
        optimiser.zero_grad()
        model(with_tcl, labels=torch.tensor([0, 1, 2, 1])).loss.backward()
        optimiser.step()
    model.eval().save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(task(), tmp_path).eval()
    assert torch.equal(again(with_tcl).logits, model(with_tcl).logits)
    assert not torch.equal(again(with_tcl).logits, task()(with_tcl).logits)


def test_adapters_are_added_switched_disabled_and_deleted(ids):
    encoder = make()
    base = encoder(ids).user_vector
    patched = train(get_peft_model(encoder, PatchConfig(bottleneck=2)), ids)
    first = patched(ids).user_vector
    patched.add_adapter("other", PatchConfig(bottleneck=3))
    assert torch.equal(patched(ids).user_vector, first), "a new adapter is not active by itself"
    patched.set_adapter("other")
    assert torch.equal(patched(ids).user_vector, base)
    assert {n for n, p in patched.named_parameters() if p.requires_grad} == {
        n for n, _ in patched.named_parameters() if ".other." in n
    }
    patched.set_adapter("default")
    assert torch.equal(patched(ids).user_vector, first)
    with patched.disable_adapter():
        assert torch.equal(patched(ids).user_vector, base)
    patched.delete_adapter("other")
    assert not [n for n, _ in patched.named_parameters() if ".other." in n]


def test_unload_gives_the_exact_encoder_back_and_merge_is_refused(ids):
    encoder = make()
    base, frozen = encoder(ids).user_vector, digest(encoder)
    patched = train(get_peft_model(encoder, PatchConfig(bottleneck=2)), ids)
    for merge in (patched.merge_and_unload, patched.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()
    unloaded = patched.unload()
    assert isinstance(unloaded, NextItNet)
    assert not [m for m in unloaded.modules() if isinstance(m, PatchLayer)]
    assert torch.equal(unloaded(ids).user_vector, base)
    assert digest(unloaded) == frozen


def test_loading_with_little_memory(tmp_path, ids):
    patched = train(get_peft_model(make(), PatchConfig(bottleneck=2)), ids)
    patched.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make(), tmp_path, low_cpu_mem_usage=True).eval()
    assert torch.equal(again(ids).user_vector, patched(ids).user_vector)


def test_a_patch_goes_on_convolutions_only():
    with pytest.raises(ValueError, match="dilated convolution"):
        get_peft_model(make(), PatchConfig(bottleneck=2, target_modules=["norm"]))


def test_it_is_silent(tmp_path, ids):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get_peft_model(make(), PatchConfig(bottleneck=2)).save_pretrained(tmp_path)
