"""What peft drives for all of our tuners: refusals before anything is changed, deletion, names in a mixed batch."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.tuners import PatchConfig
from peterrec.tuners.layer import TunerLayer


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return NextItNet(NextItNetConfig(vocab_size=20, hidden_size=8, dilations=(1, 2, 4, 8))).eval()


@pytest.fixture
def ids():
    return torch.tensor([[3, 4, 5, 2], [6, 7, 2, 0]])


def kinds(model):
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize("layers", [2, [0, 7]])
def test_a_block_that_is_not_there(encoder, layers):
    before = kinds(encoder)
    with pytest.raises(ValueError, match=r"layers_to_transform names block [27], .* blocks 0 to 1"):
        get_peft_model(encoder, PatchConfig(layers_to_transform=layers))
    assert kinds(encoder) == before


def test_a_module_and_what_is_inside_it(encoder):
    before = kinds(encoder)
    with pytest.raises(ValueError, match=r"unit1.conv lies inside .*unit1, which is wrapped itself"):
        get_peft_model(encoder, PatchConfig(placement="parallel_unit", target_modules=["unit1", "conv"]))
    assert kinds(encoder) == before


def test_a_module_around_an_adapter_that_stands(encoder, ids):
    model = get_peft_model(encoder, PatchConfig(layers_to_transform=[1]))
    before = kinds(model)
    with pytest.raises(ValueError, match=r"blocks.1.unit1 cannot be wrapped: blocks.1.unit1.conv inside it"):
        model.add_adapter("second", PatchConfig(placement="parallel_unit"))
    assert kinds(model) == before
    assert list(model.peft_config) == ["default"]
    model.add_adapter("second", PatchConfig(placement="parallel_unit", layers_to_transform=[0]))


def test_a_module_that_another_method_wraps(encoder):
    lora = get_peft_model(encoder, LoraConfig(r=2, target_modules=["unit1.conv.linear"])).base_model.model
    with (
        pytest.warns(UserWarning, match="second time"),
        pytest.warns(UserWarning, match="peft_config"),
        pytest.raises(ValueError, match=r"conv cannot be wrapped: .*conv.linear inside it"),
    ):
        get_peft_model(lora, PatchConfig(), adapter_name="second")


def test_another_configuration(encoder):
    model = get_peft_model(encoder, PatchConfig())
    with pytest.raises(ValueError, match="different peft types"):
        model.add_adapter("second", LoraConfig(r=2))
    config = LoraConfig(r=2, target_modules=["conv"])
    model.base_model.peft_config["second"] = config
    with pytest.raises(ValueError, match="Expected a PatchConfig, got LoraConfig"):
        model.base_model.inject_adapter(model.base_model.model, "second")


def test_names_of_a_mixed_batch(encoder, ids):
    model = get_peft_model(encoder, PatchConfig()).eval()
    with pytest.raises(ValueError, match="no adapter 'other' in this model; it holds default, __base__"):
        model(ids, adapter_names=["default", "other"])
    with pytest.raises(ValueError, match="holds 1 names, but the batch has 2 rows"):
        model(ids, adapter_names=["default"])
    with pytest.raises(ValueError, match=r"model\.eval"):
        model.train()(ids, adapter_names=["default", "default"])
    assert not [m for m in model.modules() if m._forward_pre_hooks]


def test_deleting_the_last_adapter_leaves_the_bare_encoder(encoder, ids):
    wanted, before = encoder(ids).user_vector, kinds(encoder)
    model = get_peft_model(encoder, PatchConfig())
    model.delete_adapter("default")
    assert kinds(model.base_model.model) == before
    assert model.active_adapters == []
    assert torch.equal(model.base_model(ids).user_vector, wanted)
    model.add_adapter("again", PatchConfig(placement="serial_block"))
    model.set_adapter("again")
    assert [name for name, p in model.named_parameters() if p.requires_grad]


def test_deleting_an_inactive_or_one_of_two_active_adapters(encoder):
    model = get_peft_model(encoder, PatchConfig(), adapter_name="first")
    for name in ("second", "third"):
        model.add_adapter(name, PatchConfig())
    model.delete_adapter("third")
    assert model.active_adapters == ["first"]
    model.base_model.set_adapter(["first", "second"])
    model.delete_adapter("first")
    assert model.base_model.active_adapters == ["second"]
    assert {tuple(m.active_adapters) for m in model.modules() if isinstance(m, TunerLayer)} == {("second",)}
