"""Sequences: what `datasets` wrote or reads is read alike, without a copy."""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.errors import DataError

DATA = "data-00000-of-00001.arrow"
FEATURES = {"user": datasets.Value("string"), "items": datasets.List(datasets.Value("int32"))}


def random_rows(seed, count=57):
    rng = np.random.default_rng(seed)
    lists = [rng.integers(3, 1000, size=rng.choice([0, 1, 2, 5, 40])).astype(np.int32) for _ in range(count)]
    return [f"u{n}é" for n in range(count)], lists, rng.integers(3, 1000, size=count).astype(np.int32)


def write(folder, users, lists, targets=None, per_batch=10):
    with SequenceWriter(folder, targets=targets is not None) as writer:
        for n in range(0, len(users), per_batch):
            some = lists[n : n + per_batch]
            flat = np.concatenate([np.empty(0, np.int32), *some])
            lengths = np.array([len(one) for one in some])
            writer.write(
                pa.array(users[n : n + per_batch]),
                flat,
                lengths,
                None if targets is None else targets[n : n + per_batch],
            )
    return folder


def assert_equal(sequences, users, lists, targets):
    assert len(sequences) == len(users)
    assert list(sequences.users) == users
    assert sequences.lengths.dtype == np.int64
    assert sequences.lengths.tolist() == [len(one) for one in lists]
    assert (sequences.targets is None) == (targets is None)
    if targets is not None:
        assert sequences.targets.dtype == np.int32
        assert sequences.targets.tolist() == targets.tolist()
    for row, expected in enumerate(lists):
        assert sequences.items_of(row).dtype == np.int32
        assert sequences.items_of(row).tolist() == expected.tolist()


@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("per_batch", [1, 10, 100])
def test_reads_what_it_wrote_and_so_does_datasets(tmp_path, with_targets, per_batch):
    users, lists, targets = random_rows(0)
    if not with_targets:
        targets = None
    folder = write(tmp_path / "part", users, lists, targets, per_batch)
    assert_equal(Sequences(folder), users, lists, targets)
    loaded = datasets.load_from_disk(str(folder))
    assert loaded["user"][:] == users
    assert loaded["items"][:] == [one.tolist() for one in lists]
    features = dict(FEATURES)
    if with_targets:
        features["target"] = datasets.Value("int32")
        assert loaded["target"][:] == targets.tolist()
    assert loaded.features == datasets.Features(features)
    assert loaded.split == "part"


def test_the_files_are_as_datasets_writes_them(tmp_path):
    users, lists, targets = random_rows(1)
    folder = write(tmp_path / "part", users, lists, targets)
    datasets.load_from_disk(str(folder)).save_to_disk(str(tmp_path / "again"))
    for name in ("dataset_info.json", "state.json"):
        ours, theirs = (json.loads((f / name).read_text()) for f in (folder, tmp_path / "again"))
        for content in (ours, theirs):
            content.pop("_fingerprint", None)  # `datasets` makes a new one when it saves
        assert ours == theirs
    folders = (folder, tmp_path / "again")
    ours, theirs = (pa.ipc.open_stream((one / DATA).read_bytes()).schema for one in folders)
    assert ours.equals(theirs, check_metadata=True)


def test_reads_what_datasets_wrote_in_several_files(tmp_path):
    users, lists, targets = random_rows(2, count=300)
    columns = {"user": users, "items": [one.tolist() for one in lists], "target": targets.tolist()}
    features = FEATURES | {"target": datasets.Value("int32")}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(
        str(tmp_path / "part"), num_shards=3
    )
    assert len(list((tmp_path / "part").glob("*.arrow"))) == 3
    sequences = Sequences(tmp_path / "part")
    assert_equal(sequences, users, lists, targets)
    check_gather(sequences, lists, seed=2)


def check_gather(sequences, lists, seed):
    rng = np.random.default_rng(seed)
    for size in (1, 7, 500):
        rows = rng.integers(0, len(lists), size)
        stops = np.array([rng.integers(0, len(lists[row]) + 1) for row in rows])
        starts = np.array([rng.integers(0, stop + 1) for stop in stops])
        flat, lengths = sequences.gather(rows, starts, stops)
        expected = [lists[row][start:stop] for row, start, stop in zip(rows, starts, stops, strict=True)]
        assert flat.dtype == np.int32
        assert flat.tolist() == np.concatenate(expected).tolist()
        assert lengths.tolist() == [len(one) for one in expected]


@pytest.mark.parametrize("per_batch", [1, 10, 100])
def test_gather_equals_slices(tmp_path, per_batch):
    users, lists, _ = random_rows(3)
    sequences = Sequences(write(tmp_path / "part", users, lists, per_batch=per_batch))
    check_gather(sequences, lists, seed=per_batch)
    flat, lengths = sequences.gather([], [], [])
    assert (flat.dtype, flat.size, lengths.size) == (np.int32, 0, 0)


def test_gather_refuses_what_does_not_exist(tmp_path):
    sequences = Sequences(write(tmp_path / "part", ["a", "b"], [np.array([3, 4], np.int32), np.array([5], np.int32)]))
    for rows, starts, stops in (
        ([2], [0], [0]),
        ([-1], [0], [1]),
        ([0], [-1], [1]),
        ([0], [2], [1]),
        ([1], [0], [2]),
    ):
        with pytest.raises(IndexError):
            sequences.gather(rows, starts, stops)
    for row in (-1, 2):
        with pytest.raises(IndexError):
            sequences.items_of(row)


def test_nothing_is_copied(tmp_path):
    """All items are views into one mapping of the file: equal bytes there, and addresses inside of it."""
    users, lists, targets = random_rows(4)
    folder = write(tmp_path / "part", users, lists, targets)
    allocated = pa.total_allocated_bytes()
    sequences = Sequences(folder)
    assert pa.total_allocated_bytes() == allocated
    base = sequences._flat[0]
    address = base.__array_interface__["data"][0]
    mapped = np.fromfile(folder / DATA, dtype=np.int32, count=base.size)
    assert np.array_equal(base, mapped)
    if (maps := Path("/proc/self/maps")).exists():  # Linux tells what is mapped where
        (mapping,) = [line for line in maps.read_text().splitlines() if line.endswith(str(folder / DATA))]
        low, high = (int(bound, 16) for bound in mapping.split()[0].split("-"))
        assert low <= address < address + base.nbytes <= high
    for row in (n for n, one in enumerate(lists) if len(one)):
        view = sequences.items_of(row)
        assert not view.flags.owndata
        assert not view.flags.writeable
        assert address <= view.__array_interface__["data"][0] < address + base.nbytes


def test_empty_parts(tmp_path):
    for targets in (None, np.empty(0, np.int32)):
        folder = write(tmp_path / f"part{targets is None}", [], [], targets)
        sequences = Sequences(folder)
        assert_equal(sequences, [], [], targets)
        assert len(datasets.load_from_disk(str(folder))) == 0
    sequences = Sequences(write(tmp_path / "lists", ["a", "b"], [np.empty(0, np.int32)] * 2))
    assert sequences.lengths.tolist() == [0, 0]
    assert sequences.items_of(1).size == 0


def test_users_behave_as_a_list(tmp_path):
    users, lists, _ = random_rows(5)
    ids = Sequences(write(tmp_path / "part", users, lists)).users
    assert ids[3] == users[3]
    assert ids[-1] == users[-1]
    assert ids[5:20:3] == users[5:20:3]
    assert ids.take([8, 2, 2]) == [users[8], users[2], users[2]]
    assert users[7] in ids
    with pytest.raises(IndexError):
        ids[len(users)]


def test_the_fingerprint_follows_the_content(tmp_path):
    users, lists, targets = random_rows(6)

    def fingerprint(name, *rows):
        return json.loads((write(tmp_path / name, *rows) / "state.json").read_text())["_fingerprint"]

    first = fingerprint("a", users, lists, targets)
    assert first == fingerprint("b", users, lists, targets)
    assert first != fingerprint("c", users[::-1], lists, targets)
    assert first != fingerprint("d", users, lists[::-1], targets)
    assert first != fingerprint("e", users, lists, targets[::-1])


def test_what_is_no_part_is_told(tmp_path):
    with pytest.raises(DataError, match="no part"):
        Sequences(tmp_path / "missing")
    folder = write(tmp_path / "part", *random_rows(7))
    data = folder / DATA
    data.write_bytes(data.read_bytes()[:700])
    with pytest.raises(DataError, match="no part"):
        Sequences(folder)
    datasets.Dataset.from_dict({"user": ["a"], "text": ["b"]}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match=r"columns user \(string\), text \(string\)"):
        Sequences(tmp_path / "other")
    holes = {"user": ["a"], "items": [[3, None]]}
    damaged = datasets.Dataset.from_dict(holes, features=datasets.Features(FEATURES))
    damaged.save_to_disk(str(tmp_path / "holes"))
    with pytest.raises(DataError, match="null items"):
        Sequences(tmp_path / "holes")
