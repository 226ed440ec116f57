"""The coding of fields: learned on training rows, the same for every file, exact for every row."""

import gc
import json
import weakref
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from peterrec.data.impressions import field_values
from peterrec.data.impressions.coding import NOTE, VALUES, FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import RefusedError, SettingsError

N = 300
FIELDS = ("tags", "price", "city", "shop", "age")  # of every kind, not in the order of the file


def columns(seed: int, *, shift: int = 0) -> dict:
    """Raw columns; `shift` brings values that other seeds do not have."""
    rng = np.random.default_rng(seed)

    def text(name: str, number: int, missing: float) -> list[str | None]:
        drawn = rng.zipf(1.5, N) % number + shift
        return [None if gone else f"{name}{value}" for value, gone in zip(drawn, rng.random(N) < missing, strict=True)]

    price, age = rng.normal(40, 7, N), rng.integers(0, 90, N).astype(float)
    price[rng.random(N) < 0.2] = np.nan
    return {
        "labels": {"click": rng.integers(0, 2, N)},
        "categorical": {"shop": text("s", 9, 0.1), "city": text("c", 60, 0), "unread": text("u", 5, 0)},
        "numeric": {"age": age, "price": price},
        "multi": {
            "words": [[] for _ in range(N)],
            "tags": [[f"t{tag + shift}" for tag in set(rng.integers(0, 12, size))] for size in rng.integers(0, 4, N)],
        },
    }


@pytest.fixture(scope="module")
def raw():
    return columns(0)


@pytest.fixture(scope="module")
def impressions(raw):
    return Impressions.of_arrays(**raw)


@pytest.fixture(scope="module")
def training():
    return np.sort(np.random.default_rng(5).permutation(N)[:150])


def expected_rows(values: list, known: Counter, *, minimum: int) -> list[int]:
    """The table's rows of values, one after the other."""
    order = sorted((value for value in known if known[value] >= minimum), key=lambda value: (-known[value], value))
    return [0 if value is None else order.index(value) + 2 if value in order else 1 for value in values]


@pytest.mark.parametrize("minimum", [1, 4])
@pytest.mark.parametrize("other", [False, True])
def test_batches_are_what_the_training_rows_say(raw, impressions, training, minimum, other):
    coding = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=minimum)
    sizes = coding.sizes
    assert sizes.names == ("city", "shop", "price", "age", "tags")
    # another file numbers its values otherwise, and holds some that training did not see
    read = columns(1, shift=2) if other else raw
    file = Impressions.of_arrays(**read) if other else impressions
    rows = np.random.default_rng(7).integers(0, N, 64)  # unsorted, some twice
    batch = coding.batch(file, rows)
    assert len(batch) == 64
    for place, name in enumerate(("city", "shop")):
        learned = Counter(raw["categorical"][name][row] for row in training if raw["categorical"][name][row])
        values = [read["categorical"][name][row] for row in rows]
        assert batch.categorical[:, place].tolist() == expected_rows(values, learned, minimum=minimum)
        assert sizes.categorical[place] == 2 + sum(count >= minimum for count in learned.values())
    for place, name in enumerate(("price", "age")):
        values = raw["numeric"][name][training]
        wanted = (read["numeric"][name][rows] - np.nanmean(values)) / np.nanstd(values)
        assert batch.missing[:, place].tolist() == np.isnan(wanted).tolist()
        np.testing.assert_allclose(batch.numeric[:, place].numpy(), np.nan_to_num(wanted), atol=1e-5)
    learned = Counter(tag for row in training for tag in raw["multi"]["tags"][row])
    ((flat, offsets),) = batch.multi
    ends = [*offsets[1:].tolist(), len(flat)]
    for row, start, end in zip(rows, offsets.tolist(), ends, strict=True):
        assert flat[start:end].tolist() == expected_rows(read["multi"]["tags"][row], learned, minimum=minimum)
    if other:
        assert (batch.categorical == 1).any()
        assert (flat == 1).any()
    assert [tensor.dtype for tensor in (batch.categorical, batch.numeric, batch.missing, flat, offsets)] == [
        torch.int64,
        torch.float32,
        torch.bool,
        torch.int64,
        torch.int64,
    ]


def test_other_rows_teach_nothing(raw, training):
    """Validation and test rows may hold anything: what was learned stays the same."""
    other = columns(3, shift=100)
    changed = {kind: {name: list(values) for name, values in raw[kind].items()} for kind in raw}
    for kind, fields in changed.items():
        for name, values in fields.items():
            for row in set(range(N)) - set(training.tolist()):
                values[row] = other[kind][name][row]
    codings = [
        FieldCoding.fit(Impressions.of_arrays(**of), training, fields=FIELDS, minimum=1) for of in (raw, changed)
    ]
    assert codings[0].fingerprint == codings[1].fingerprint
    less = FieldCoding.fit(Impressions.of_arrays(**raw), training[1:], fields=FIELDS, minimum=1)
    assert less.fingerprint != codings[0].fingerprint


def test_parts_add_up(impressions, training, monkeypatch):
    whole = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1)
    monkeypatch.setattr(field_values, "_ROWS_AT_ONCE", 7)
    parts = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1)
    for one, other in zip(whole.numeric, parts.numeric, strict=True):
        assert (one.mean, one.sd) == pytest.approx((other.mean, other.sd), rel=1e-12)
    for one, other in zip((*whole.categorical, *whole.multi), (*parts.categorical, *parts.multi), strict=True):
        assert one.values.equals(other.values)
        assert one.counts.tolist() == other.counts.tolist()


def test_constant_absent_and_infinite_numbers():
    constant, absent = np.full(7, 0.1), np.full(7, np.nan)
    impressions = Impressions.of_arrays(labels={"click": [0] * 7}, numeric={"constant": constant, "absent": absent})
    coding = FieldCoding.fit(impressions, np.arange(7), fields=["constant", "absent"], minimum=1)
    assert [field.sd for field in coding.numeric] == [1, 1]
    odd = Impressions.of_arrays(
        labels={"click": [0] * 3}, numeric={"constant": [0.1, np.inf, 1.1], "absent": [2, -np.inf, np.nan]}
    )
    batch = coding.batch(odd, np.arange(3))
    np.testing.assert_allclose(batch.numeric.numpy(), [[0, 2], [0, 0], [1, 0]], atol=1e-6)
    assert batch.missing.tolist() == [[False, False], [True, True], [False, True]]


def test_no_fields_and_no_rows(impressions):
    empty = FieldCoding.fit(impressions, np.arange(5), fields=[], minimum=1)
    assert (len(empty.sizes), len(empty.batch(impressions, np.arange(3)))) == (0, 3)
    coding = FieldCoding.fit(impressions, np.arange(5), fields=FIELDS, minimum=1)
    batch = coding.batch(impressions, np.arange(0))
    assert batch.categorical.shape == (0, 2)
    assert batch.multi[0][0].shape == batch.multi[0][1].shape == (0,)


def test_what_was_saved_codes_equally(impressions, training, tmp_path):
    coding = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=2)
    coding.save(tmp_path)
    loaded = FieldCoding.load(tmp_path)
    assert loaded.sizes == coding.sizes
    assert loaded.fingerprint == coding.fingerprint
    one, other = (of.batch(impressions, np.arange(N)) for of in (coding, loaded))
    for name in ("categorical", "numeric", "missing"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert all(torch.equal(a, b) for a, b in zip(one.multi[0], other.multi[0], strict=True))
    assert [known.counts.tolist() for known in loaded.categorical] == [
        known.counts.tolist() for known in coding.categorical
    ]
    table = pq.read_table(tmp_path / VALUES)
    assert table.schema.names == ["field", "value", "count"]
    assert set(table["field"].to_pylist()) == {"city", "shop", "tags"}
    FieldCoding.fit(impressions, training, fields=[], minimum=1).save(tmp_path)
    assert FieldCoding.load(tmp_path).names == ()


def _swap(folder):
    table = pq.read_table(folder / VALUES)
    pq.write_table(table.take([1, 0, *range(2, table.num_rows)]), folder / VALUES)


def _shorten(folder):
    pq.write_table(pq.read_table(folder / VALUES).slice(1), folder / VALUES)


def _lengthen(folder):
    table = pq.read_table(folder / VALUES)
    pq.write_table(pa.concat_tables([table, table.slice(table.num_rows - 1)]), folder / VALUES)


def _rename(folder):
    pq.write_table(pq.read_table(folder / VALUES).rename_columns(["field", "text", "count"]), folder / VALUES)


def _scale(folder):
    note = json.loads((folder / NOTE).read_text())
    note["numeric"][0]["mean"] += 1
    (folder / NOTE).write_text(json.dumps(note))


DAMAGE = {
    "values swapped": _swap,
    "a value less": _shorten,
    "a value more": _lengthen,
    "another column": _rename,
    "another mean": _scale,
    "no values": lambda folder: (folder / VALUES).unlink(),
    "no note": lambda folder: (folder / NOTE).unlink(),
    "not Parquet": lambda folder: (folder / VALUES).write_bytes(b"PAR1"),
    "not JSON": lambda folder: (folder / NOTE).write_text("{"),
    "a list": lambda folder: (folder / NOTE).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused(impressions, training, tmp_path, damage):
    FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1).save(tmp_path)
    DAMAGE[damage](tmp_path)
    with pytest.raises(RefusedError, match="fields cannot be read"):
        FieldCoding.load(tmp_path)


def test_unknown_fields_are_told(impressions, training):
    with pytest.raises(SettingsError, match=r"no field 'pricee'\. Did you mean 'price'"):
        FieldCoding.fit(impressions, training, fields=["pricee"], minimum=1)
    with pytest.raises(SettingsError, match="'price' is named twice"):
        FieldCoding.fit(impressions, training, fields=["price", "shop", "price"], minimum=1)
    coding = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1)
    other = Impressions.of_arrays(labels={"click": [0]}, categorical={"city": ["a"], "shop": ["b"], "price": ["3"]})
    with pytest.raises(SettingsError, match="numeric field 'price'"):
        coding.batch(other, np.arange(1))


def test_files_that_are_gone_are_not_kept(training):
    impressions = Impressions.of_arrays(**columns(0))
    coding = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1)
    coding.batch(impressions, training)
    gone = weakref.ref(impressions)
    del impressions
    gc.collect()
    assert gone() is None


def test_a_batch_moves_as_a_whole(impressions, training):
    batch = FieldCoding.fit(impressions, training, fields=FIELDS, minimum=1).batch(impressions, training)
    moved = batch.to(torch.device("meta"))
    tensors = (moved.categorical, moved.numeric, moved.missing, *moved.multi[0])
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert len(moved) == len(batch)


def test_equal_counts_are_ordered_by_bytes_of_text():
    values = ["b", "a", "ä", "Z", "b", "z"]
    impressions = Impressions.of_arrays(labels={"click": [0] * 6}, categorical={"f": values})
    coding = FieldCoding.fit(impressions, np.arange(6), fields=["f"], minimum=1)
    assert coding.categorical[0].values == pa.array(["b", "Z", "a", "z", "ä"])
