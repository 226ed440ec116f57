"""Evaluating again: which users and events are fresh, and what damaged runs say."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.prepared import open_prepared
from peterrec.errors import RefusedError
from peterrec.run_record import data_of, read_run
from peterrec.stages import evaluate, finetune, prepare
from peterrec.stages.world import COLUMNS, log_files

SEEN = "pretraining may have seen these events"


@pytest.fixture(scope="module")
def other_split(world_log, encoder_folder, tmp_path_factory):
    """The same log by another split, with the encoder's vocabulary."""
    output = tmp_path_factory.mktemp("other") / "prepared"
    prepare.run(
        log_files(world_log),
        output=output,
        columns=COLUMNS,
        users=world_log / "users.csv",
        split="temporal",
        encoder=encoder_folder,
    )
    return output


@pytest.fixture(scope="module")
def few_labels(encoder_folder):
    """The task gender, learned from 40 labels; its other labelled users that are no test users are unused."""
    output = encoder_folder.with_name("few")
    finetune.run(
        "gender",
        encoder=encoder_folder,
        output=output,
        seeds=[0],
        labels=40,
        overrides=["epochs=1", "device=cpu"],
        progress="silent",
    )
    return output


@pytest.fixture
def task_copy(task_folder):
    """A copy beside the original, since a run names its encoder and data relative to itself."""
    copy = task_folder.with_name("gender-copy")
    yield shutil.copytree(task_folder, copy)
    shutil.rmtree(copy)


def parts_of(folder):
    table = pq.read_table(folder / "split.parquet").to_pydict()
    return {part: {u for u, p in zip(*table.values(), strict=True) if p == part} for part in set(table["part"])}


def count_tested(metrics):
    return sum(map(sum, metrics["confusion"]["matrix"]))


def test_an_encoder_on_its_own_data_has_fresh_events(encoder_folder, prepared_folder, tmp_path):
    for name, data in (("own", None), ("named", prepared_folder)):
        assert SEEN not in evaluate.run(encoder_folder, data=data, output=tmp_path / name, device="cpu")["protocol"]


def test_an_encoder_on_other_data_says_that_it_may_have_seen_them(encoder_folder, other_split, tmp_path):
    found = evaluate.run(encoder_folder, data=other_split, output=tmp_path / "other", device="cpu")
    assert SEEN in found["protocol"]


def test_own_data_that_were_prepared_anew_are_other_data(encoder_folder, tmp_path):
    copy = encoder_folder.with_name("encoder-copy")
    shutil.copytree(encoder_folder, copy)
    run = json.loads((copy / "run.json").read_text())
    run["inputs"]["data_fingerprint"] = "0" * 64
    (copy / "run.json").write_text(json.dumps(run))
    assert SEEN in evaluate.run(copy, output=tmp_path / "e", device="cpu")["protocol"]
    del run["inputs"]["data_fingerprint"]
    (copy / "run.json").write_text(json.dumps(run))
    assert SEEN not in evaluate.run(copy, output=tmp_path / "f", device="cpu")["protocol"]
    shutil.rmtree(copy)


def test_a_task_is_tested_on_its_test_users_alone(few_labels, prepared_folder, tmp_path):
    parts = parts_of(few_labels)
    assert parts["unused"], "the budget leaves users out"
    for name, data in (("own", None), ("named", prepared_folder)):
        found = evaluate.run(few_labels, data=data, output=tmp_path / name, device="cpu")
        assert count_tested(found) == len(parts["test"])
    accuracy = json.loads((few_labels / "metrics.json").read_text())["results"][0]["metrics"]["accuracy"]["value"]
    assert found["results"][0]["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_on_other_data_new_users_are_tested_too(few_labels, world_log, encoder_folder, tmp_path):
    table = pa.table({"user": ["new1", "new2"] * 4, "item": ["i0001", "i0002"] * 4, "timestamp": list(range(8))})
    parts = parts_of(few_labels)
    users = [min(parts["train"]), min(parts["validation"]), min(parts["unused"]), *sorted(parts["test"])[:2]]
    mine = pa.table({"user": users * 2, "item": ["i0003", "i0004"] * 5, "timestamp": list(range(10))})
    labels = pa.table({"user": ["new1", "new2", *users], "gender": ["f", "m", "f", "m", "f", "m", "f"]})
    prepare.run(
        pa.concat_tables([table, mine]),
        output=tmp_path / "data",
        columns=COLUMNS,
        users=labels,
        split="leave_one_out",
        encoder=encoder_folder,
    )
    found = evaluate.run(few_labels, data=tmp_path / "data", output=tmp_path / "e", device="cpu")
    assert count_tested(found) == 4, "two new users and two test users"
    assert "3 others are left out" in found["protocol"]


def test_a_missing_or_damaged_split_is_refused(task_copy, tmp_path):
    path = task_copy / "split.parquet"
    whole = path.read_bytes()
    for content in (whole[:-40], b"", None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(RefusedError, match=r"split\.parquet"):
            evaluate.run(task_copy, output=tmp_path / "e", device="cpu")
    pq.write_table(pa.table({"user": ["a"]}), path)
    with pytest.raises(RefusedError, match=r"split\.parquet"):
        evaluate.run(task_copy, output=tmp_path / "e", device="cpu")
    pq.write_table(pa.table({"user": ["a"], "part": ["exam"]}), path)
    with pytest.raises(RefusedError, match="exam"):
        evaluate.run(task_copy, output=tmp_path / "e", device="cpu")
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("damage", [{"inputs": None}, {"inputs": {}}, {"inputs": {"data": 7}}])
def test_a_damaged_run_is_refused(task_copy, tmp_path, damage):
    run = json.loads((task_copy / "run.json").read_text())
    (task_copy / "run.json").write_text(json.dumps({**run, **damage}))
    with pytest.raises(RefusedError, match=r"run\.json"):
        evaluate.run(task_copy, output=tmp_path / "e", device="cpu")


def test_runs_may_move_together(encoder_folder, prepared_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (encoder_folder, prepared_folder):
        shutil.copytree(folder, tmp_path / "moved" / folder.name)
    moved = tmp_path / "moved" / encoder_folder.name
    run = read_run(moved)
    assert data_of(moved, run).resolve() == (tmp_path / "moved" / prepared_folder.name).resolve()
    assert run["inputs"]["data_fingerprint"] == open_prepared(prepared_folder).fingerprint
