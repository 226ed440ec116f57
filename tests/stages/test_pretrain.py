"""Resuming asks for the same data, and the tracker gets time for its artifact."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.errors import SettingsError
from peterrec.stages import encode, prepare, pretrain
from peterrec.stages.world import COLUMNS, log_files
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

    monkeypatch.setattr("peterrec.training.tracked_run.open_tracker", lambda *args, **kwargs: Noting())
    pretrain.run(prepared_folder, output=tmp_path / "run", settings=small_settings, progress="silent")
    assert calls[0] == ("artifact", ["config.json", "model.safetensors"])
    assert calls[1] == ("finish", 60)


def test_what_only_objectives_need_is_not_part_of_the_encoder(
    small_settings, prepared_folder, encoder_folder, tmp_path
):
    objective = small_settings.objective.model_copy(update={"contrast": 1.0, "bag": 0.5, "group_users": 64})
    settings = small_settings.model_copy(update={"objective": objective})
    told = pretrain.run(prepared_folder, output=tmp_path / "run", settings=settings, progress="silent")
    assert told["training"]["choices"][0].startswith("Loss: 1 × next_item + 1 × contrast + 0.5 × bag; views: halves")
    assert told["training"]["watched"] == "ndcg@10"
    with_heads, plain = load_encoder(tmp_path / "run"), load_encoder(encoder_folder)
    assert with_heads.state_dict().keys() == plain.state_dict().keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for record in lines:
        assert record["losses"].keys() == {"next_item", "contrast", "bag"}
        assert "match@10" in record["validation"]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["settings"]["objective"]["contrast"] == 1.0
    extra = told["results"][0]["trained_parameters"] - sum(p.numel() for p in plain.parameters())
    rows, channels = plain.embed_tokens.weight.shape
    assert extra == 2 * channels * (channels + 1) + 2 * channels + rows * (channels + 1)


def of_users(settings):
    changes = {"next_item": 0.0, "contrast": 1.0, "group_users": 64}
    return settings.model_copy(update={"objective": settings.objective.model_copy(update=changes)})


def test_an_encoder_that_learnt_of_users_alone_says_so_and_reads_all(
    small_settings, prepared_folder, world_log, encoder_folder, tmp_path
):
    told = pretrain.run(prepared_folder, output=tmp_path / "run", settings=of_users(small_settings), progress="silent")
    assert "learnt from views of users and no next items: its figures here are no judgement" in told["protocol"]
    training = json.loads((tmp_path / "run" / "metrics.json").read_text())["training"]
    assert training["watched"] == "match@10"
    watched = [record["validation"]["match@10"] for record in told["curves"]]
    assert training["best_metric"] == max(watched) == watched[training["best_epoch"] - 1]
    assert "no judgement" not in json.loads((encoder_folder / "metrics.json").read_text())["protocol"]

    def used(folder, **changes):
        output = tmp_path / f"{folder.name}-{len(changes)}.parquet"
        encode.run(log_files(world_log), encoder=folder, output=output, columns=COLUMNS, device="cpu", **changes)
        found = pq.read_table(output)
        return np.array(found["events_used"]), np.array(found["events"])

    read, events = used(tmp_path / "run")
    assert events.max() > 50
    assert np.array_equal(read, events)
    assert used(tmp_path / "run", max_length=50)[0].max() == 50
    assert used(encoder_folder)[0].max() == 50


@pytest.mark.parametrize(
    ("settings", "reads_all"),
    [
        ({"encoder": {"kind": "pooled"}, "objective": {"next_item": 1.0}}, True),
        ({"encoder": {"kind": "sasrec"}, "objective": {"next_item": 0.0, "bag": 1.0}}, True),
        ({"encoder": {"kind": "sasrec"}, "objective": {"next_item": 0.1, "bag": 1.0}}, False),
        ({"encoder": {"kind": "grec"}, "objective": {"next_item": 0.0, "gap_filling": 1.0}}, False),
        ({"encoder": {}, "objective": {"name": "next_item"}}, False),
        ({}, False),
    ],
)
def test_who_reads_whole_histories(settings, reads_all):
    assert encode.reads_all(settings) is reads_all
