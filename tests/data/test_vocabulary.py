"""The vocabulary: order, lookup, fingerprint, and refusal of files that were changed."""

import hashlib
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.vocabulary import FIRST_ITEM, MASK, PAD, TCL, Vocabulary
from peterrec.errors import RefusedError

IDS = ["10", "9", "1", "01", "ä", "z", "Z", "", "😀", "a b", "a", "b\x00c"]
COUNTS = [5, 5, 7, 1, 2, 2, 2, 1, 9, 3, 3, 1]


def in_order(ids, counts):
    return sorted(zip(ids, counts, strict=True), key=lambda pair: (-pair[1], pair[0].encode()))


def test_rows_stand_in_falling_count_then_id_order_whatever_the_input_order():
    expected = in_order(IDS, COUNTS)
    for seed in range(5):
        pairs = list(zip(IDS, COUNTS, strict=True))
        random.Random(seed).shuffle(pairs)
        vocabulary = Vocabulary.build([p[0] for p in pairs], counts=[p[1] for p in pairs])
        assert vocabulary.items.to_pylist() == [item for item, _ in expected]
        assert vocabulary.counts.tolist() == [count for _, count in expected]
    assert (PAD, MASK, TCL, FIRST_ITEM) == (0, 1, 2, 3)
    assert len(vocabulary) == len(IDS) + 3
    assert vocabulary.num_items == len(IDS)


def test_rows_and_ids_are_inverse_and_unseen_is_minus_one():
    vocabulary = Vocabulary.build(IDS, counts=COUNTS)
    rows = {item: n + 3 for n, (item, _) in enumerate(in_order(IDS, COUNTS))}
    asked = [*IDS, "unseen", "1 ", "😀", "1.0"]
    expected = [rows.get(item, -1) for item in asked]
    dictionary = pa.array(asked).dictionary_encode()
    for ids in (
        asked,
        pa.array(asked),
        pa.chunked_array([asked[:3], asked[3:]]),
        pa.array(asked, pa.large_string()),
        dictionary,
    ):
        found = vocabulary.rows(ids)
        assert found.dtype == np.int32
        assert found.tolist() == expected
    assert vocabulary.ids(vocabulary.rows(IDS)) == IDS
    assert vocabulary.rows([]).tolist() == []
    assert vocabulary.rows(pa.array(["1", None])).tolist() == [rows["1"], -1]
    assert vocabulary.ids([]) == []


def test_numbers_are_not_ids_and_special_rows_have_none():
    vocabulary = Vocabulary.build(IDS, counts=COUNTS)
    with pytest.raises(TypeError, match="text"):
        vocabulary.rows(pa.array([1, 10]))
    with pytest.raises(TypeError):
        vocabulary.rows([1, 10])  # type: ignore[list-item]
    for row in (-1, PAD, MASK, TCL, len(vocabulary)):
        with pytest.raises(IndexError, match="items have 3 to 14"):
            vocabulary.ids([3, row])


def test_fingerprint_follows_the_ids_and_their_order_only():
    digest = hashlib.sha256()
    for item, _ in in_order(IDS, COUNTS):
        digest.update(len(item.encode()).to_bytes(8, "little") + item.encode())
    assert Vocabulary.build(IDS, counts=COUNTS).fingerprint == digest.hexdigest()
    assert Vocabulary.build(IDS, counts=np.array(COUNTS) * 10).fingerprint == digest.hexdigest()
    assert Vocabulary.build(IDS[1:], counts=COUNTS[1:]).fingerprint != digest.hexdigest()
    # ids that only differ in where one ends and the next begins
    assert (
        Vocabulary.build(["ab", "c"], counts=[2, 1]).fingerprint
        != Vocabulary.build(["a", "bc"], counts=[2, 1]).fingerprint
    )


def test_save_and_load(tmp_path):
    vocabulary = Vocabulary.build(IDS, counts=COUNTS)
    vocabulary.save(tmp_path / "vocabulary.parquet")
    loaded = Vocabulary.load(tmp_path / "vocabulary.parquet")
    assert loaded.items.equals(vocabulary.items)
    assert loaded.counts.tolist() == vocabulary.counts.tolist()
    assert loaded.fingerprint == vocabulary.fingerprint
    table = pq.read_table(tmp_path / "vocabulary.parquet")
    assert table["row"].to_pylist() == list(range(3, len(vocabulary)))
    assert [p.name for p in tmp_path.iterdir()] == ["vocabulary.parquet"]
    # another writer's file layout is the same vocabulary
    pq.write_table(table, tmp_path / "again.parquet", row_group_size=2, compression="gzip", version="1.0")
    assert Vocabulary.load(tmp_path / "again.parquet").fingerprint == vocabulary.fingerprint


def swapped(table, name):
    values = table[name].to_pylist()
    values[0], values[-1] = values[-1], values[0]
    at = table.column_names.index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def one_id_changed(table):
    items = [*table["item"].to_pylist()[:-1], "other"]
    return table.set_column(1, table.schema.field("item"), pa.array(items))


def one_id_twice(table):
    items = table["item"].to_pylist()
    return table.set_column(1, table.schema.field("item"), pa.array([items[1], *items[1:]]))


def one_id_null(table):
    return table.set_column(1, table.schema.field("item"), pa.array([None, *table["item"].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: swapped(table, "row"), "in order"),
        (lambda table: swapped(table, "count"), "falling count"),
        (lambda table: swapped(table, "item"), "fingerprint"),
        (one_id_changed, "fingerprint"),
        (one_id_twice, "twice"),
        (one_id_null, "missing"),
        (lambda table: table.slice(0, 4), "fingerprint"),
        (lambda table: table.replace_schema_metadata(None), "fingerprint"),
        (lambda table: table.rename_columns(["row", "movie", "count"]), "columns are row, movie, count"),
        (lambda table: table.drop_columns(["count"]), "columns"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, told):
    path = tmp_path / "vocabulary.parquet"
    Vocabulary.build(IDS, counts=COUNTS).save(path)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(RefusedError, match=told) as caught:
        Vocabulary.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_truncated_file_is_refused(tmp_path):
    path = tmp_path / "vocabulary.parquet"
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet"):
        Vocabulary.load(path)
    Vocabulary.build(IDS, counts=COUNTS).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RefusedError, match=r"vocabulary\.parquet"):
        Vocabulary.load(path)


def test_an_extended_vocabulary_keeps_its_rows_and_adds_new_items_behind_them(tmp_path):
    first = Vocabulary.build(["a", "b", "c"], counts=[5, 4, 1])
    day = Vocabulary.build(["z", "c", "y", "x"], counts=[2, 30, 7, 2])
    grown = first.extended(day)
    assert grown.items.to_pylist() == ["a", "b", "c", "y", "x", "z"]
    assert grown.counts.tolist() == [5, 4, 31, 7, 2, 2]
    assert first.counts.tolist() == [5, 4, 1]
    assert grown.begins_with(first)
    assert not grown.begins_with(day)
    assert not first.begins_with(grown)
    assert grown.prefixes == ((3, first.fingerprint),)
    again = grown.extended(Vocabulary.build(["q", "a"], counts=[9, 1]))
    assert again.items.to_pylist()[:6] == grown.items.to_pylist()
    assert again.prefixes == ((3, first.fingerprint), (6, grown.fingerprint))
    without_new = grown.extended(Vocabulary.build(["x"], counts=[99]))
    assert without_new.fingerprint == grown.fingerprint
    assert without_new.extended(Vocabulary.build(["x"], counts=[1])).prefixes == without_new.prefixes
    for vocabulary in (grown, again, without_new):
        vocabulary.save(tmp_path / "v.parquet")
        loaded = Vocabulary.load(tmp_path / "v.parquet")
        assert loaded.items.to_pylist() == vocabulary.items.to_pylist()
        assert loaded.counts.tolist() == vocabulary.counts.tolist()
        assert loaded.prefixes == vocabulary.prefixes
        assert loaded.fingerprint == vocabulary.fingerprint


@pytest.mark.parametrize(
    ("prefixes", "told"),
    [
        ([(2, "its own")], "first items"),
        ([(3, "another")], "first items"),
        ([(9, "its own")], "shorter"),
        ([(3, "its own"), (2, "its own")], "shorter"),
        ([], "falling count"),
    ],
)
def test_prefixes_that_do_not_fit_are_refused(prefixes, told, tmp_path):
    first = Vocabulary.build(["a", "b", "c"], counts=[5, 4, 1])
    grown = first.extended(Vocabulary.build(["c", "y"], counts=[30, 7]))
    grown.prefixes = tuple((n, first.fingerprint if name == "its own" else name) for n, name in prefixes)
    grown.save(tmp_path / "v.parquet")
    with pytest.raises(RefusedError, match=told):
        Vocabulary.load(tmp_path / "v.parquet")


def test_unreadable_prefixes_are_refused(tmp_path):
    vocabulary = Vocabulary.build(["a"], counts=[1])
    vocabulary.save(tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet")
    told = {**table.schema.metadata, b"peterrec.vocabulary.prefixes": b"[3]"}
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "v.parquet")
    with pytest.raises(RefusedError, match="extended from is not readable"):
        Vocabulary.load(tmp_path / "v.parquet")
