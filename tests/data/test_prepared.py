"""Opening a prepared folder: what it gives, and what is refused."""

import json
import shutil

import pyarrow as pa
import pytest

from peterrec.data.logs.interactions import LogColumns
from peterrec.data.prepared import PARTS, open_prepared
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.run_folder import output_folder
from peterrec.stages import prepare

ROWS = [("a", "x"), ("a", "y"), ("a", "x"), ("a", "z"), ("b", "y"), ("b", "x"), ("b", "w"), ("c", "x")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "log"
    table = pa.table({"user": [user for user, _ in ROWS], "item": [item for _, item in ROWS]})
    prepare.run(table, output=folder, columns=LogColumns(time=None), split="leave_one_out")
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "log")


def test_what_a_prepared_folder_gives(folder):
    log = open_prepared(folder)
    assert log.split == "leave_one_out"
    assert log.folder == folder
    assert log.vocabulary.items.to_pylist() == ["x", "y", "w", "z"]
    assert log.vocabulary.counts.tolist() == [4, 2, 1, 1]
    assert log.events == {"train": 4, "validation": 3, "test": 5, "histories": 8}
    assert {part: len(log.sequences(part)) for part in PARTS} == {
        "train": 3,
        "validation": 2,
        "test": 2,
        "histories": 3,
    }
    test = log.sequences("test")
    assert test.users[:] == ["a", "b"]
    assert log.vocabulary.ids(test.targets) == ["z", "w"]
    assert log.vocabulary.ids(test.items_of(0)) == ["x", "y", "x"]
    assert log.labels() is None
    assert log.items() is None
    with pytest.raises(SettingsError, match="Did you mean 'histories'"):
        log.sequences("history")


def test_what_is_no_prepared_log(folder, tmp_path):
    with pytest.raises(DataError, match="peterrec prepare"):
        open_prepared(tmp_path / "missing")
    with output_folder(tmp_path / "other", stage="pretrain") as other:
        other.finish()
    with pytest.raises(DataError, match="pretrain"):
        open_prepared(tmp_path / "other")
    (folder / "run.json").unlink()
    with pytest.raises(DataError, match="not a prepared log"):
        open_prepared(folder)


def test_damaged_parts_are_told(folder):
    (folder / "train" / "state.json").unlink()
    with pytest.raises(DataError, match="train"):
        open_prepared(folder).sequences("train")
    (folder / "summary.json").write_text("{")
    with pytest.raises(DataError, match="not a prepared log"):
        open_prepared(folder)


def test_another_vocabulary_is_refused(folder):
    Vocabulary.build(["x", "y", "z", "v"], counts=[4, 2, 1, 1]).save(folder / "vocabulary.parquet")
    with pytest.raises(DataError, match="another log"):
        open_prepared(folder)
    (folder / "vocabulary.parquet").write_bytes(b"PAR1")
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet"):
        open_prepared(folder)


def test_a_newer_format_is_refused(folder):
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**run, "format_version": 99}))
    with pytest.raises(RefusedError, match="newer"):
        open_prepared(folder)


def test_the_fingerprint_follows_parts_vocabulary_and_labels(tmp_path):
    table = pa.table({"user": [user for user, _ in ROWS], "item": [item for _, item in ROWS]})
    users = pa.table({"user": ["a", "b"], "gender": ["f", "m"]})

    def made(name, log=table, labels=users, split="leave_one_out"):
        prepare.run(log, output=tmp_path / name, columns=LogColumns(time=None), users=labels, split=split)
        return open_prepared(tmp_path / name).fingerprint

    # the same items as often, but two of them in another order: the vocabulary stays
    swapped = table.take([1, 0, *range(2, len(ROWS))])
    first = made("first")
    assert made("again") == first
    others = [
        made("swapped", swapped),
        made("labels", labels=pa.table({"user": ["a", "b"], "gender": ["m", "m"]})),
        made("unlabelled", labels=None),
        made("split", split="by_user"),
    ]
    assert len({first, *others}) == 5
    vocabularies = {open_prepared(tmp_path / name).vocabulary.fingerprint for name in ("first", "swapped")}
    assert len(vocabularies) == 1


def test_the_fingerprint_of_damaged_parts_is_refused(folder):
    (folder / "test" / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json"):
        _ = open_prepared(folder).fingerprint
