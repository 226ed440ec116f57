"""The documented example: a stock Trainer trains an adapter on our encoder."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from peterrec import TaskModel
from peterrec.adapter_file import load_adapter, load_head
from peterrec.data.attribute import read_attribute
from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.heads.classification import ClassificationHead

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_with_transformers.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_with_transformers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_trains_only_the_adapter_and_the_file_gives_the_same_logits(
    script, encoder_folder, prepared_folder, tmp_path
):
    prepared = open_prepared(prepared_folder)
    output = tmp_path / "gender"
    model, figures = script.train(encoder_folder, prepared, column="gender", output=output, epochs=2)
    assert 0 <= figures["test_accuracy"] <= 1
    assert not model.training

    frozen = load_encoder(encoder_folder).state_dict()
    inner = {
        name.replace("base_layer.", ""): tensor
        for name, tensor in model.encoder.get_base_model().state_dict().items()
        if "peterrec_patch" not in name
    }
    assert inner.keys() == frozen.keys()
    assert all(torch.equal(inner[name], tensor) for name, tensor in frozen.items())
    ups = [p for name, p in model.named_parameters() if "peterrec_patch_up" in name and name.endswith("weight")]
    assert ups
    assert all(up.abs().sum() > 0 for up in ups), "they start at zero"

    assert sorted(path.name for path in output.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    head = ClassificationHead(16, 2)
    load_head(output, head=head)
    again = TaskModel(load_adapter(output), head, readout="mean").eval()
    ids = script.collate([(prepared.sequences("histories").items_of(row), 0) for row in range(20)])["input_ids"]
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)


def test_the_command_is_quiet(script, encoder_folder, prepared_folder, tmp_path, capfd):
    output = tmp_path / "gender"
    script.main([str(encoder_folder), str(prepared_folder), "gender", str(output), "--epochs", "1"])
    found = capfd.readouterr()
    assert found.err == ""
    assert len(found.out.splitlines()) == 2, found.out
    assert "test accuracy 0." in found.out


def test_training_lowers_the_loss(script, encoder_folder, prepared_folder, tmp_path):
    prepared = open_prepared(prepared_folder)
    attribute = read_attribute(prepared, column="gender")
    everyone = script.LabelledHistories(
        prepared.sequences("histories"), attribute, np.arange(len(attribute)), max_length=50
    )
    batch = script.collate([everyone[place] for place in range(len(everyone))])
    losses = []
    for rate in (1e-9, 5e-3):
        model, _ = script.train(
            encoder_folder, prepared, column="gender", output=tmp_path / "o", epochs=12, learning_rate=rate
        )
        with torch.no_grad():
            losses.append(float(model(**batch).loss))
    assert losses[1] < losses[0] - 0.02


def test_examples_are_padded_on_the_right(script):
    batch = script.collate([(np.array([5, 6], dtype=np.int32), 1), (np.array([7], dtype=np.int32), 0)])
    assert batch["input_ids"].tolist() == [[5, 6], [7, 0]]
    assert batch["labels"].tolist() == [1, 0]


def test_what_cannot_be_used_is_told_plainly(script, encoder_folder, prepared_folder, tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*colour"):
        script.main([str(encoder_folder), str(prepared_folder), "colour", str(tmp_path / "o")])
    assert not (tmp_path / "o").exists()
