"""Item ids as salted hashes: none is published, the tensors stay, and the salt brings them back."""

import hashlib
import hmac
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import peterrec
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import open_encoder
from peterrec.errors import SettingsError
from peterrec.hub.copying import copy_fetched
from peterrec.hub.fetching import fetch
from peterrec.hub.item_names import hashed, read_salt, restoring
from peterrec.hub.publishing import publish
from peterrec.recommender import load_recommender

SALT = b"a salt of our own, quite long"


def test_a_hash_is_the_keyed_one():
    (found,) = hashed(["film 7"], salt=SALT)
    assert found == hmac.new(SALT, b"film 7", hashlib.sha256).hexdigest()[:32]
    assert hashed(["film 7"], salt=b"another salt of ours") != [found]
    assert restoring(["film 6", "film 7"], salt=SALT)([found, "unknown"]) == ["film 7", "unknown"]


def test_a_salt_is_made_once_and_is_long(tmp_path):
    path = tmp_path / "salt"
    with pytest.raises(SettingsError, match="cannot be read"):
        read_salt(path, make=False)
    salt = read_salt(path, make=True)
    assert read_salt(path, make=True) == salt
    assert len(salt) == 64
    assert path.stat().st_mode & 0o077 == 0  # its owner's alone
    path.write_text("short\n")
    with pytest.raises(SettingsError, match="are too few"):
        read_salt(path, make=True)


def test_no_item_id_is_published_and_the_salt_undoes_it(hub, encoder, task, cold_start, tmp_path):
    for run, name in ((encoder, "encoder"), (task, "gender"), (cold_start, "cold")):
        publish(run, to=f"me/{name}", salt=SALT)
    ids = Vocabulary.load(encoder / "vocabulary.parquet").items.to_pylist()
    targets = Vocabulary.load(cold_start / "target_vocabulary.parquet").items.to_pylist()
    told = b"".join(
        content
        for repository in hub.repositories.values()
        for name, content in repository.commits[-1].files.items()
        if not name.endswith(".parquet")  # compressed: read below
    )
    for item in (*ids, *targets):
        assert f'"{item}"'.encode() not in told
    vocabulary = Vocabulary.load(fetch("me/encoder") / "vocabulary.parquet")
    assert vocabulary.items.to_pylist() == hashed(ids, salt=SALT)
    catalogue = Vocabulary.load(fetch("me/cold") / "target_vocabulary.parquet")
    assert catalogue.items.to_pylist() == hashed(targets, salt=SALT)
    # as published it loads, and works for whoever hashes
    loaded = peterrec.load_task(fetch("me/gender"))
    ours = peterrec.load_task(task)
    tokens = torch.tensor([[0, 5, 9, 7]])
    torch.testing.assert_close(loaded.model(tokens), ours.model(tokens), rtol=0, atol=0)
    # and with the salt it is the owner's again, to the bit
    rename = restoring([*ids, *targets], salt=SALT)
    for name, run in (("gender", task), ("cold", cold_start)):
        folder, beside = copy_fetched(fetch(f"me/{name}"), output=tmp_path / "mine" / name, rename=rename)
        assert Vocabulary.load(beside / "vocabulary.parquet").items.to_pylist() == ids
        assert open_encoder(beside)[1].fingerprint == Vocabulary.load(encoder / "vocabulary.parquet").fingerprint
        own, theirs = (load_file(place / "adapter_model.safetensors") for place in (folder, run))
        assert own.keys() == theirs.keys()
        assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert peterrec.load_task(tmp_path / "mine" / "gender").facts == ours.facts
    recommender = load_recommender(tmp_path / "mine" / "cold")
    assert recommender.catalogue.items.to_pylist() == targets
    np.testing.assert_array_equal(recommender.catalogue.counts, load_recommender(cold_start).catalogue.counts)


def test_both_belong_together(hub, encoder, task):
    publish(encoder, to="me/encoder")
    with pytest.raises(SettingsError, match="under hashed items"):
        publish(task, to="me/gender", salt=SALT)


def test_a_restored_encoder_is_the_original_again(hub, encoder, tmp_path):
    publish(encoder, to="me/encoder", salt=SALT)
    ids = Vocabulary.load(encoder / "vocabulary.parquet").items.to_pylist()
    (folder,) = copy_fetched(fetch("me/encoder"), output=tmp_path / "mine", rename=restoring(ids, salt=SALT))
    run = json.loads((folder / "run.json").read_text())
    assert run["encoder_revision"] == json.loads((encoder / "run.json").read_text())["encoder_revision"]
