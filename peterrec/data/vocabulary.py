"""The vocabulary: which row of the embedding belongs to which item."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peterrec.atomic import atomic_file
from peterrec.errors import RefusedError

PAD = 0
MASK = 1
TCL = 2
FIRST_ITEM = 3

Ids = Sequence[str] | pa.Array | pa.ChunkedArray

_SCHEMA = pa.schema([("row", pa.int32()), ("item", pa.string()), ("count", pa.int64())])
_FINGERPRINT = b"peterrec.vocabulary.fingerprint"
_PREFIXES = b"peterrec.vocabulary.prefixes"
_HASHED_AT_ONCE = 1 << 16


class Prefix(NamedTuple):
    """The first `items` items of a vocabulary, once a vocabulary of their own with that fingerprint."""

    items: int
    fingerprint: str


class Vocabulary:
    """Items in row order: falling count, then id by its UTF-8 bytes; row `FIRST_ITEM` is the first of them.

    The counts are those of the events that the vocabulary was made from (which ones is the split's affair).

    One that was `extended` holds earlier ones as its `prefixes`, oldest first: its rows stand in that order from the
    last prefix on, and whoever wants falling counts sorts by `counts`.
    """

    def __init__(
        self, items: pa.StringArray, counts: npt.NDArray[np.int64], *, prefixes: Sequence[Prefix] = ()
    ) -> None:
        assert len(items) == len(counts)
        self.items = items
        self.counts = counts
        self.prefixes = tuple(prefixes)

    @classmethod
    def build(cls, items: Ids, *, counts: npt.ArrayLike) -> "Vocabulary":
        """The vocabulary of distinct `items` (V - 3, in any order), which occurred `counts` (V - 3) times."""
        table = pa.table({"item": _text(items), "count": pa.array(np.asarray(counts, dtype=np.int64))})
        table = table.sort_by([("count", "descending"), ("item", "ascending")])
        return cls(_one_array(table["item"]), table["count"].to_numpy())

    def extended(self, new: "Vocabulary") -> "Vocabulary":
        """This vocabulary with the items of `new` that it lacks behind its own, which keep their rows.

        They stand in the order of `new`, which is no extended one itself: falling count, then id. Counts add up.
        """
        assert not new.prefixes, "its rows stand in no order"
        rows = self.rows(new.items)
        counts, known = self.counts.copy(), rows >= 0
        counts[rows[known] - FIRST_ITEM] += new.counts[known]
        prefix = Prefix(self.num_items, self.fingerprint)
        return Vocabulary(
            pa.concat_arrays([self.items, new.items.filter(pa.array(~known))]),
            np.concatenate([counts, new.counts[~known]]),
            prefixes=self.prefixes if self.prefixes[-1:] == (prefix,) else (*self.prefixes, prefix),
        )

    def begins_with(self, other: "Vocabulary") -> bool:
        """Whether the items of `other` have the same rows here."""
        return self.items.slice(0, other.num_items).equals(other.items)

    def __len__(self) -> int:
        """The number of rows V, the special ones included."""
        return FIRST_ITEM + self.num_items

    def __repr__(self) -> str:
        return f"Vocabulary({self.num_items} items, fingerprint {self.fingerprint[:12]}…)"

    @property
    def num_items(self) -> int:
        """The number of items, V - 3."""
        return len(self.items)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the ids in row order, each after its length in bytes (8, little-endian)."""
        return self._fingerprint_of(self.num_items)

    def _fingerprint_of(self, first: int) -> str:
        """The fingerprint that the first so many items have alone."""
        digest = hashlib.sha256()
        for start in range(0, first, _HASHED_AT_ONCE):
            ids = [item.encode() for item in self.items.slice(start, min(first - start, _HASHED_AT_ONCE)).to_pylist()]
            digest.update(b"".join(len(item).to_bytes(8, "little") + item for item in ids))
        return digest.hexdigest()

    def rows(self, ids: Ids) -> npt.NDArray[np.int32]:
        """The rows (N,) of N ids; -1 where an id is unseen (or null)."""
        found = pc.call_function("index_in", [_text(ids)], pc.SetLookupOptions(value_set=self.items))
        return found.fill_null(-1 - FIRST_ITEM).to_numpy() + np.int32(FIRST_ITEM)

    def ids(self, rows: npt.ArrayLike) -> list[str]:
        """The ids of `rows` (N,); `IndexError` for special rows (PAD, MASK, TCL) and rows beyond the last."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        if wanted.size and (wanted.min() < FIRST_ITEM or wanted.max() >= len(self)):
            raise IndexError(
                f"rows {wanted.min()} to {wanted.max()} asked for; items have {FIRST_ITEM} to {len(self) - 1}"
            )
        return self.items.take(pa.array(wanted - FIRST_ITEM)).to_pylist()

    def save(self, path: Path) -> None:
        """Write columns row, item, count as Parquet; fingerprint and prefixes go into the file's metadata."""
        rows = np.arange(FIRST_ITEM, len(self), dtype=np.int32)
        told = {_FINGERPRINT: self.fingerprint.encode()}
        if self.prefixes:
            told[_PREFIXES] = json.dumps(self.prefixes).encode()
        schema = _SCHEMA.with_metadata(told)
        table = pa.table([pa.array(rows), self.items, pa.array(self.counts)], schema=schema)
        with atomic_file(Path(path)) as temporary:
            pq.write_table(table, temporary, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote; `RefusedError` if the file is missing, damaged or changed by hand."""
        path = Path(path)
        refused = f"{path}: not a vocabulary that fits its encoder"
        fix = "take the vocabulary.parquet that was written beside it, or prepare the log again."
        try:
            with pq.ParquetFile(path) as file:
                table = file.read()
        except (OSError, pa.ArrowException) as problem:
            raise RefusedError(f"{refused} ({str(problem).splitlines()[0]}); {fix}") from None
        told = table.schema.metadata or {}
        stored = told.get(_FINGERPRINT, b"").decode()
        if not table.schema.equals(_SCHEMA):
            raise RefusedError(f"{refused} (its columns are {', '.join(table.schema.names)}); {fix}")
        try:
            prefixes = [Prefix(int(items), str(name)) for items, name in json.loads(told.get(_PREFIXES, b"[]"))]
        except (ValueError, TypeError):
            raise RefusedError(f"{refused} (what it was extended from is not readable); {fix}") from None
        vocabulary = cls(_one_array(table["item"]), table["count"].to_numpy(), prefixes=prefixes)
        if fault := _fault(table, vocabulary, stored):
            raise RefusedError(f"{refused} ({fault}); {fix}")
        return vocabulary


def _fault(table: pa.Table, vocabulary: Vocabulary, stored: str) -> str | None:
    """What is wrong with a vocabulary's table, or None."""
    if any(table[name].null_count for name in table.column_names):
        return "a value is missing"
    if not np.array_equal(table["row"].to_numpy(), np.arange(FIRST_ITEM, len(vocabulary))):
        return f"its rows are not {FIRST_ITEM}, {FIRST_ITEM + 1}, … in order"
    if len(vocabulary.items.unique()) != vocabulary.num_items:
        return "an item stands in it twice"
    sizes = [prefix.items for prefix in vocabulary.prefixes]
    if any(not 0 < size <= vocabulary.num_items for size in sizes) or sizes != sorted(sizes):
        return "it is shorter than what it was extended from"
    if np.any(np.diff(vocabulary.counts[sizes[-1] if sizes else 0 :]) > 0):
        return "its items are not ordered by falling count"
    if any(vocabulary._fingerprint_of(prefix.items) != prefix.fingerprint for prefix in vocabulary.prefixes):
        return "its first items are not those that it was extended from"
    if stored != vocabulary.fingerprint:
        return "its items are not those of the fingerprint stored with it"
    return None


def _text(ids: Any) -> pa.Array | pa.ChunkedArray:
    """`ids` as Arrow text; `TypeError` if they are anything else, since 1 and "1" must not mix silently."""
    if not isinstance(ids, (pa.Array, pa.ChunkedArray)):
        return pa.array(ids, type=pa.string())
    kind = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(test(kind) for test in tests):
        raise TypeError(f"item ids are text, not {kind}")
    return ids if kind is ids.type and pa.types.is_string(kind) else ids.cast(kind).cast(pa.string())


def _one_array(column: pa.ChunkedArray) -> pa.StringArray:
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
