"""Loading goes through a closed configuration and strict weights."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.encoders.loading import encoder_revision, load_encoder, open_encoder, save_encoder
from peterrec.errors import RefusedError, SettingsError


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    encoder = NextItNet(NextItNetConfig(vocab_size=23, hidden_size=8, dilations=(1, 2), tie_output=False))
    save_encoder(encoder, config_path=tmp_path / "config.json", weights_path=tmp_path / "model.safetensors")
    return tmp_path, encoder


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_was_saved_comes_back(saved):
    folder, encoder = saved
    again = load_encoder(folder)
    assert not again.training
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert again.config.dilations == [1, 2]


def test_the_files_are_those_of_save_pretrained(saved, tmp_path):
    folder, encoder = saved
    encoder.save_pretrained(tmp_path / "stock")
    ours, stock = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "stock"))
    assert ours == {key: value for key, value in stock.items() if key in ours}
    assert set(load_file(tmp_path / "stock" / "model.safetensors")) == set(load_file(folder / "model.safetensors"))


def test_a_folder_without_an_encoder_says_so(tmp_path):
    with pytest.raises(SettingsError, match="peterrec pretrain"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "no encoder of peterrec"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"hidden_size": 16}, "config.json says"),
        ({"dilations": [1, 2, 4, 8]}, "does not hold the weights"),
    ],
)
def test_a_changed_configuration_is_refused(saved, changes, message):
    folder, _ = saved
    change_config(folder, **changes)
    with pytest.raises(RefusedError, match=message):
        load_encoder(folder)


def test_damaged_files_are_refused(saved):
    folder, _ = saved
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RefusedError, match="damaged"):
        load_encoder(folder)
    weights.unlink()
    with pytest.raises(RefusedError, match="incomplete"):
        load_encoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(RefusedError, match="JSON"):
        load_encoder(folder)


def test_the_revision_follows_the_weights(saved):
    folder, _ = saved
    before = encoder_revision(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["embed_tokens.weight"][3, 0] += 1
    save_file(tensors, folder / "model.safetensors")
    assert encoder_revision(folder) != before


def test_the_revision_follows_the_configuration_but_not_its_layout(saved):
    folder, _ = saved
    before = encoder_revision(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "dropout": 0.0, "dilations": config["dilations"]}, indent=7))
    assert encoder_revision(folder) == before, "defaults that are spelt out change nothing"
    for changes in ({"dilations": [2, 1]}, {"causal": False}, {"vocabulary_fingerprint": "f" * 64}):
        path.write_text(json.dumps({**config, **changes}))
        assert encoder_revision(folder) != before, changes


def test_the_revision_of_half_an_encoder_is_refused(saved, tmp_path):
    folder, _ = saved
    (folder / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="incomplete"):
        encoder_revision(folder)
    with pytest.raises(SettingsError, match="holds no encoder"):
        encoder_revision(tmp_path / "nowhere")


def test_encoder_and_vocabulary_come_together(saved):
    folder, _ = saved
    vocabulary = Vocabulary.build([f"i{n:02}" for n in range(20)], counts=np.ones(20))
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet"):
        open_encoder(folder)
    vocabulary.save(folder / "vocabulary.parquet")
    with pytest.raises(RefusedError, match="names none"):
        open_encoder(folder)
    change_config(folder, vocabulary_fingerprint=vocabulary.fingerprint)
    encoder, found = open_encoder(folder)
    assert not encoder.training
    assert found.fingerprint == vocabulary.fingerprint
    other = Vocabulary.build([f"i{n:02}" for n in range(1, 21)], counts=np.ones(20))
    other.save(folder / "vocabulary.parquet")
    with pytest.raises(RefusedError, match=f"names {vocabulary.fingerprint[:16]}"):
        open_encoder(folder)
    shorter = Vocabulary.build([f"i{n:02}" for n in range(19)], counts=np.ones(19))
    shorter.save(folder / "vocabulary.parquet")
    change_config(folder, vocabulary_fingerprint=shorter.fingerprint)
    with pytest.raises(RefusedError, match="22 rows"):
        open_encoder(folder)
