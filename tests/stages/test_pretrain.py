"""Resuming asks for the same data, and the tracker gets time for its artifact."""

import json

import pyarrow as pa
import pytest

from peterrec.data.prepared import open_prepared
from peterrec.errors import SettingsError
from peterrec.stages import prepare, pretrain
from peterrec.stages.world import COLUMNS
from peterrec.training.tracking import Tracker


def prepared(folder, order):
    """A log whose vocabulary does not hang on the order of its events."""
    items = [f"i{(user * 7 + n) % 10}" for user in range(30) for n in order]
    users = [f"u{user}" for user in range(30) for _ in order]
    log = pa.table({"user": users, "item": items, "timestamp": list(range(len(users)))})
    prepare.run(log, output=folder, columns=COLUMNS, split="leave_one_out", overwrite=True)
    return open_prepared(folder)


def test_other_data_are_refused_on_resume(small_settings, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*args, **kwargs):
        raise Stop

    first = prepared(tmp_path / "data", range(9))
    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "evaluate_next_item", stop)
        with pytest.raises(Stop):
            pretrain.run(tmp_path / "data", output=tmp_path / "run", settings=small_settings, progress="silent")
    assert (tmp_path / "run" / "unfinished.json").is_file()
    again = prepared(tmp_path / "data", [1, 0, *range(2, 9)])
    assert again.vocabulary.fingerprint == first.vocabulary.fingerprint
    with pytest.raises(SettingsError, match=r"interrupted under other settings: data\.fingerprint"):
        pretrain.run(tmp_path / "data", output=tmp_path / "run", settings=small_settings, progress="silent")
    prepared(tmp_path / "data", range(9))
    note = tmp_path / "run" / "unfinished.json"
    before = json.loads(note.read_text())
    before["settings"]["training"]["shard_tables"] = True  # where rows stood says nothing of what was learnt
    note.write_text(json.dumps(before))
    told = pretrain.run(tmp_path / "data", output=tmp_path / "run", settings=small_settings, progress="silent")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["training"]["shard_tables"] is False
    assert told["training"]["processes"] == 1
    assert told["training"]["device"] == "cpu"
    softmax, update = told["training"]["choices"]
    assert softmax.startswith("Softmax over 13 rows: exact")
    assert update.startswith("Item table of 13 rows: dense AdamW")


def test_the_tracker_gets_time_for_the_artifact(small_settings, prepared_folder, tmp_path, monkeypatch):
    calls = []

    class Noting(Tracker):
        def artifact(self, name, *, type, files, uses=()):
            calls.append(("artifact", [file.name for file in files]))

        def finish(self, timeout=10.0):
            calls.append(("finish", timeout))

    monkeypatch.setattr(pretrain, "open_tracker", lambda *args, **kwargs: Noting())
    pretrain.run(prepared_folder, output=tmp_path / "run", settings=small_settings, progress="silent")
    assert calls[0] == ("artifact", ["config.json", "model.safetensors"])
    assert calls[1] == ("finish", 60)
