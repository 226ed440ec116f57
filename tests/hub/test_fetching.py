"""Fetching: bit for bit what was published, its encoder with it; damaged, changed and malicious things are refused."""

import json
import os
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
from hub_server import TOKEN

import peterrec
from peterrec.errors import PeterrecError, RefusedError, ResourceError, SettingsError
from peterrec.hub.fetching import fetch
from peterrec.hub.listing import listing
from peterrec.hub.publishing import publish
from peterrec.hub.reference import is_repository, parse_reference


@pytest.fixture
def published(hub, encoder, task):
    """Encoder and adapter on the hub."""
    publish(encoder, to="me/encoder")
    publish(task, to="me/gender")
    return hub


def test_what_is_fetched_is_what_was_published(published, encoder, task):
    folder = fetch("me/encoder")
    for name in ("model.safetensors", "config.json", "vocabulary.parquet"):
        assert (folder / name).read_bytes() == (encoder / name).read_bytes()
    folder = fetch("me/gender")
    assert (folder / "adapter_model.safetensors").read_bytes() == (task / "adapter_model.safetensors").read_bytes()
    loaded = peterrec.load_task(folder)  # on the encoder that was fetched with it
    assert loaded.encoder_folder == fetch("me/encoder")


def test_the_three_lines_of_the_card_run(published):
    for name, last in (("encoder", "encoder.config.vocab_size"), ("gender", "task.facts.classes")):
        card = (fetch(f"me/{name}") / "README.md").read_text()
        code = card.split("# in Python\n")[1].split("```")[0]
        assert len(code.strip().splitlines()) == 3
        found: dict = {}
        exec(f"{code}\nresult = {last}", found)
        assert found["result"]


def test_a_commit_is_asked_for_once(published):
    revision = published.repositories["me/gender"].commits[-1].oid
    fetch(f"me/gender@{revision}")
    published.requests.clear()
    fetch(f"me/gender@{revision}")
    assert published.requests == []
    fetch("me/gender")
    assert published.requests == [("GET", "/api/models/me/gender")]  # whether there is a newer one


def test_a_revision_stays_what_it_was(published, encoder, task):
    old = published.repositories["me/encoder"].commits[-1].oid
    weights = bytearray((encoder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (encoder / "model.safetensors").write_bytes(weights)
    publish(encoder, to="me/encoder", tag="v2")
    assert (fetch("me/encoder@v2") / "model.safetensors").read_bytes() == bytes(weights)
    assert (fetch(f"me/encoder@{old}") / "model.safetensors").read_bytes() != bytes(weights)
    loaded = peterrec.load_task(fetch("me/gender"))  # goes on with the encoder that it names
    assert loaded.encoder_folder == fetch(f"me/encoder@{old}")


def test_without_the_hub_what_was_fetched_is_there(published, monkeypatch):
    import huggingface_hub

    folder = fetch("me/gender")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert fetch("me/gender") == folder
    with pytest.raises(ResourceError, match="cannot be reached"):
        fetch("me/unknown")


def test_predictions_are_the_same_to_the_bit_in_a_new_process_with_an_empty_cache(published, task, world_log, tmp_path):
    environment = {
        **os.environ,
        "HF_ENDPOINT": published.address,
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "PETERREC_CACHE": str(tmp_path / "another"),
        "HF_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }
    log = [str(world_log / "log-0.csv"), "--user", "user", "--item", "item", "--time", "timestamp"]
    for model, output in (("me/gender", "theirs"), (str(task), "ours")):
        command = [sys.executable, "-m", "peterrec", "predict", *log, "--model", model, "-o", f"{output}.parquet"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "theirs.parquet").equals(pq.read_table(tmp_path / "ours.parquet"))


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda files: files | {"model.safetensors": files["model.safetensors"][:-9]}, RefusedError, "was changed"),
        (
            lambda files: files | {"model.safetensors": files["model.safetensors"][:-1] + b"\x01"},
            RefusedError,
            "is not the file that was published",
        ),
        (lambda files: files | {"model.safetensors": None}, RefusedError, "is missing"),
        (lambda files: files | {"manifest.json": None}, SettingsError, "was not published by peterrec"),
        (lambda files: files | {"manifest.json": b"{"}, RefusedError, "is damaged"),
        (lambda files: files | {"manifest.json": b" " * (1 << 21)}, RefusedError, "larger than a megabyte"),
        (
            lambda files: (
                files
                | {"manifest.json": files["manifest.json"].replace(b'"format_version": 1', b'"format_version": 2')}
            ),
            RefusedError,
            "published by a newer peterrec",
        ),
        (
            lambda files: (
                files | {"manifest.json": files["manifest.json"].replace(b'"config.json"', b'"../config.json"')}
            ),
            RefusedError,
            "no file that peterrec publishes",
        ),
        (
            lambda files: (
                files | {"manifest.json": files["manifest.json"].replace(b'"config.json"', b'"pytorch_model.bin"')}
            ),
            RefusedError,
            "no file that peterrec publishes",
        ),
        (
            lambda files: (
                files | {"manifest.json": files["manifest.json"].replace(b'"kind": "encoder"', b'"kind": "code"')}
            ),
            RefusedError,
            "does not know",
        ),
    ],
)
def test_a_repository_that_was_tampered_with_is_refused(published, tmp_path, change, error, said):
    files = dict(published.repositories["me/encoder"].commits[-1].files)
    published.commit("me/encoder", change(files))
    with pytest.raises(error, match=said):
        fetch("me/encoder")
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left == []


def test_what_is_too_large_is_refused_before_it_is_downloaded(published):
    with pytest.raises(RefusedError, match="raise the limit with --largest"):
        fetch("me/encoder", largest=1000)
    assert not any(path.endswith("model.safetensors") for _, path in published.requests)


def test_what_was_changed_in_the_cache_is_noticed(published):
    folder = fetch("me/encoder")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RefusedError, match="is not the file that was published"):
        fetch("me/encoder")


def test_an_adapter_that_names_another_encoder_is_refused(published):
    held = published.repositories["me/gender"].commits[-1].files
    for named in (
        {"repository": "../../etc", "revision": "main"},
        {"place": "/etc"},
        {"repository": "me/gender", "revision": "main"},
    ):
        run = json.loads(held["run.json"])
        run["published"]["encoder"] = run["published"]["encoder"] | {"place": "", "repository": ""} | named
        text = json.dumps(run).encode()
        manifest = json.loads(held["manifest.json"])
        import hashlib

        manifest["files"]["run.json"] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
        published.commit("me/gender", {"run.json": text, "manifest.json": json.dumps(manifest).encode()})
        with pytest.raises(PeterrecError, match=r"encoder|holds no"):
            fetch("me/gender")


def test_a_folder_is_checked_where_it_is(encoder, task, tmp_path):
    made = publish(encoder, to=tmp_path / "shared" / "encoder")
    publish(task, to=tmp_path / "shared" / "gender")
    moved = shutil.move(tmp_path / "shared", tmp_path / "elsewhere")
    folder = fetch(f"{moved}/encoder@{made.revision[:12]}")
    assert folder == tmp_path / "elsewhere" / "encoder"
    assert peterrec.load_task(fetch(tmp_path / "elsewhere" / "gender")).encoder_folder == folder
    with pytest.raises(RefusedError, match="published again since"):
        fetch(f"{moved}/encoder@0123456789ab")
    config = folder / "config.json"
    config.write_text(config.read_text().replace("16", "32"))
    with pytest.raises(RefusedError, match="is not the file that was published"):
        fetch(folder)


def test_a_copy_of_ones_own_is_checked_too(published, tmp_path):
    from peterrec.hub.copying import copy_fetched

    folder, encoder = copy_fetched(fetch("me/gender"), output=tmp_path / "mine")
    assert peterrec.load_task(fetch(folder)).encoder_folder == encoder
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RefusedError, match="is not the file that was published"):
        fetch(folder)


def test_private_ones_need_a_token(published, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    with pytest.raises(SettingsError, match="may not see it"):
        fetch("me/encoder")


@pytest.mark.parametrize("name", ["me/encoder", "Me_1/a.b-c"])
def test_names_of_repositories(name):
    assert is_repository(name)


@pytest.mark.parametrize(
    "name",
    [
        "runs/encoder",
        "me/../x",
        "me/..",
        "../x",
        "/etc/passwd",
        "a/b/c",
        "me",
        "me/.x",
        "me/a--b",
        "me/a\nb",
        "-/x",
        "",
    ],
)
def test_names_of_none(name):
    assert not is_repository(name)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_reference("me/encoder@v1").folder is None
    (tmp_path / "me").mkdir()
    assert parse_reference("me/encoder@v1").folder is not None  # a path: its owner is a folder here
    for text in ("me/x@", "other/x@../y", "other/x@-"):
        with pytest.raises(SettingsError):
            parse_reference(text)


def test_lists(published, tmp_path, encoder):
    found = {one.name: one.kind for one in listing("me")}
    assert found == {"me/encoder": "encoder", "me/gender": "classification"}
    (one,) = listing("me/encoder")
    assert one.revision == published.repositories["me/encoder"].commits[-1].oid[:12]
    assert "private" in one.what
    publish(encoder, to=tmp_path / "shared" / "encoder")
    assert [one.kind for one in listing(str(tmp_path / "shared"))] == ["encoder"]
    with pytest.raises(SettingsError, match="has published nothing"):
        listing("nobody")
