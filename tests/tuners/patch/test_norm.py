"""Norms with a copy an adapter: exact start, training, several adapters, saved beside the patches."""

import pytest
import torch
from peft import get_peft_model

from peterrec.tuners import PatchConfig
from peterrec.tuners.patch import NormLayer


def norms(model):
    return {name: module for name, module in model.named_modules() if isinstance(module, NormLayer)}


def test_a_copy_starts_as_the_frozen_norm(make):
    model = get_peft_model(make(), PatchConfig(bottleneck=2, train_norms=True))
    found = norms(model)
    assert len(found) == 4
    for layer in found.values():
        own = layer.peterrec_patch_norm["default"]
        for name in ("weight", "bias"):
            copy, frozen = getattr(own, name), getattr(layer.base_layer, name)
            assert torch.equal(copy, frozen)
            assert copy.data_ptr() != frozen.data_ptr()
            assert copy.requires_grad
            assert not frozen.requires_grad
        assert own.eps == layer.base_layer.eps


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
def test_training_changes_copies_and_no_frozen_byte(make, ids, block):
    frozen = {name: tensor.clone() for name, tensor in make(block).state_dict().items()}
    model = get_peft_model(make(block), PatchConfig(bottleneck=2, train_norms=True)).train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05, weight_decay=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        model(ids).user_vector.square().sum().backward()
        optimiser.step()
    for name, layer in norms(model).items():
        assert not torch.equal(layer.peterrec_patch_norm["default"].weight, layer.base_layer.weight), name
        assert not torch.equal(layer.peterrec_patch_norm["default"].bias, layer.base_layer.bias), name
    after = model.unload().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())


def test_of_two_active_adapters_each_adds_its_change(patch, add):
    model = patch(train_norms=True)
    add(model, "second", train_norms=True)
    add(model, "third", seed=9)
    layer = next(iter(norms(model).values()))
    x = torch.randn(2, 5, 8)
    frozen, own = layer.base_layer, layer.peterrec_patch_norm
    for active in (["first"], ["third", "first"]):
        model.base_model.set_adapter(active)
        assert torch.equal(layer(x), own["first"](x))
    model.base_model.set_adapter(["first", "second"])
    wanted = torch.nn.functional.layer_norm(
        x,
        (8,),
        own["first"].weight + own["second"].weight - frozen.weight,
        own["first"].bias + own["second"].bias - frozen.bias,
        frozen.eps,
    )
    torch.testing.assert_close(layer(x), wanted)
    model.base_model.set_adapter("third")
    assert torch.equal(layer(x), frozen(x))
    with model.disable_adapter():
        assert torch.equal(layer(x), frozen(x))


def test_norms_inside_a_patched_unit_cannot_be_saved_whole(make):
    with pytest.raises(
        ValueError, match=r"modules_to_save names blocks.0.unit1.norm, which lies inside blocks.0.unit1"
    ):
        get_peft_model(make(), PatchConfig(placement="parallel_unit", modules_to_save=["unit1.norm"]))
