"""An adapter on disk: small, complete, and back bit for bit."""

import json

import pytest
import torch
from peft import AutoPeftModel, AutoPeftModelForFeatureExtraction, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModel

from peterrec.encoders import NextItNet


@pytest.mark.parametrize("block", ["plain", "bottleneck"])
@pytest.mark.parametrize("little", [False, True], ids=["plain", "low_cpu_mem_usage"])
def test_a_loaded_adapter_is_the_saved_one(case, block, little, tmp_path):
    model, ids = case.read_only(block), case.ids()
    case.save(model, tmp_path)
    again = case.load(tmp_path, case.encoder(block), low_cpu_mem_usage=little)
    assert not [name for name, tensor in again.state_dict().items() if tensor.is_meta]
    assert torch.equal(case.hidden(again, ids), case.hidden(model, ids))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, p in again.named_parameters() if p.requires_grad] == trained


def test_a_loaded_adapter_does_not_train_unless_asked(own, tmp_path):
    model, ids = own.read_only(), own.ids()
    own.save(model, tmp_path)
    again = own.load(tmp_path, trains=False)
    assert not [name for name, p in again.named_parameters() if p.requires_grad]
    torch.testing.assert_close(own.hidden(again, ids), own.hidden(model, ids), rtol=1e-5, atol=1e-5)


def test_the_file_holds_the_adapter_and_nothing_of_the_encoder(case, tmp_path):
    encoder = case.encoder(vocab=5003)
    frozen, table = list(encoder.state_dict().values()), encoder.get_input_embeddings().weight
    model = case.wrap(encoder)
    case.train(model)
    case.save(model, tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    trained = {p.detach().numpy().tobytes() for p in model.parameters() if p.requires_grad}
    saved = {tensor.numpy().tobytes() for tensor in tensors.values()}
    assert trained <= saved, "something that was trained is not in the file"
    if case.ours:
        assert trained == saved, "something in the file was not trained"
    assert not saved & {tensor.numpy().tobytes() for tensor in frozen}
    assert not [name for name, tensor in tensors.items() if "default" in name or tensor.shape == table.shape]
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size < table.nbytes * case.largest_share


def test_the_configuration_comes_back(case, tmp_path):
    case.save(case.read_only(), tmp_path)
    written = json.loads((tmp_path / "adapter_config.json").read_text())
    assert written["task_type"] == "FEATURE_EXTRACTION"
    again = case.load(tmp_path).peft_config["default"].to_dict()
    wanted = case.read_only().peft_config["default"].to_dict()
    assert again == wanted


def test_the_auto_class_finds_the_encoder(case, tmp_path, quiet):
    case.encoder().save_pretrained(tmp_path / "encoder")
    model, ids = case.wrap(NextItNet.from_pretrained(tmp_path / "encoder")), case.ids()
    case.train(model)
    case.save(model, tmp_path)
    with quiet():
        again = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path, is_trainable=True).eval()
    assert isinstance(again.get_base_model(), NextItNet)
    assert torch.equal(case.hidden(again, ids), case.hidden(model, ids))


def test_the_generic_auto_class_sends_to_the_one_for_features(own, tmp_path):
    # peft keeps it for adapters without a task type, and then takes only base models from an allow-list
    own.save(own.read_only(), tmp_path)
    with pytest.raises(ValueError, match="specific class for your task type"):
        AutoPeftModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("little", [False, True], ids=["plain", "low_cpu_mem_usage"])
def test_a_second_adapter_is_loaded_beside_the_first(case, little, tmp_path, quiet):
    model, ids = case.two(), case.ids()
    first = case.hidden(model, ids)
    model.set_adapter("second")
    second = case.hidden(model, ids)
    case.save(model, tmp_path)
    again = case.load(tmp_path)
    with quiet():
        again.load_adapter(tmp_path / "second", adapter_name="second", is_trainable=True, low_cpu_mem_usage=little)
    assert torch.equal(case.hidden(again, ids), first), "a loaded adapter is not active by itself"
    again.set_adapter("second")
    assert torch.equal(case.hidden(again, ids), second)


def test_weights_are_swapped_in_a_living_model(case, tmp_path):
    model, ids = case.two(), case.ids()
    case.save(model, tmp_path)
    model.set_adapter("second")
    second = case.hidden(model, ids)
    model.set_adapter("default")
    pointers = {name: p.data_ptr() for name, p in model.named_parameters()}
    result = set_peft_model_state_dict(
        model, load_peft_weights(str(tmp_path / "second"), device="cpu"), adapter_name="default"
    )
    assert not result.unexpected_keys
    assert torch.equal(case.hidden(model, ids), second)
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == pointers, "swapped in place"


def test_a_state_dict_goes_round(case):
    model, ids = case.read_only(), case.ids()
    other = case.wrap(case.encoder())
    assert not torch.allclose(case.hidden(other, ids), case.hidden(model, ids), atol=1e-3)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(case.hidden(other, ids), case.hidden(model, ids))


def test_saving_twice_gives_the_same_bytes(own, tmp_path):
    own.save(own.read_only(), tmp_path / "a")
    own.save(own.load(tmp_path / "a"), tmp_path / "b")
    one, two = (tmp_path / side / "adapter_model.safetensors" for side in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_transformers_loads_it_by_itself(own, tmp_path):
    own.encoder().save_pretrained(tmp_path / "encoder")
    model, ids = own.wrap(NextItNet.from_pretrained(tmp_path / "encoder")), own.ids()
    own.train(model)
    own.save(model, tmp_path)
    wanted = own.hidden(model, ids)
    encoder = own.encoder()
    encoder.load_adapter(str(tmp_path))
    torch.testing.assert_close(own.hidden(encoder, ids), wanted, rtol=1e-5, atol=1e-5)
    encoder.disable_adapters()
    assert torch.equal(own.hidden(encoder, ids), own.hidden(own.encoder(), ids))
    found = AutoModel.from_pretrained(str(tmp_path)).eval()
    torch.testing.assert_close(own.hidden(found, ids), wanted, rtol=1e-5, atol=1e-5)
