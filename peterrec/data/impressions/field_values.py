"""What training rows say of one field: which of its values have a row of their own, or how its numbers are scaled."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from peterrec.data.impressions.field_batch import FIRST_VALUE, MISSING, UNSEEN

Ints = NDArray[np.int64]
_ROWS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class KnownValues:
    """The values of one field that have a row of their own, by falling count, then text; and their counts."""

    name: str
    values: pa.StringArray
    counts: Ints

    @classmethod
    def of(cls, name: str, values: pa.StringArray, counts: Ints, *, minimum: int) -> "KnownValues":
        """Those of a file's `values` with at least `minimum` training rows, and at least one; `counts` (len,)."""
        table = pa.table({"value": values, "count": counts})
        table = table.filter(pa.array(counts >= max(minimum, 1)))
        table = table.sort_by([("count", "descending"), ("value", "ascending")])
        return cls(name, one_array(table["value"]), table["count"].to_numpy())

    @property
    def size(self) -> int:
        """The rows of the field's table: one for a missing value, one for an unseen value, and one a known value."""
        return FIRST_VALUE + len(self.values)

    def rows(self, values: pa.StringArray) -> Ints:
        """The table's row of each code of a file that lists `values`: (len + 1,), code 0 being a missing value."""
        found = pc.call_function("index_in", [values], pc.SetLookupOptions(self.values))
        known = found.fill_null(UNSEEN - FIRST_VALUE).to_numpy(zero_copy_only=False) + FIRST_VALUE
        return np.concatenate([[MISSING], known]).astype(np.int64)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a numeric field over the training rows that have it."""

    name: str
    mean: float
    sd: float

    @classmethod
    def of(cls, name: str, column: NDArray[np.float32], rows: Ints) -> "Scale":
        """That of `rows` (n,) of a `column` (N,), where NaN is missing; of a constant column, or none, sd is 1."""
        count, mean, squares = 0, 0.0, 0.0
        for part in _parts(rows):
            values = column[part].astype(np.float64)
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            own, total = float(values.mean()), count + len(values)
            # the parts' squared deviations add up as in Chan, Golub and LeVeque (1983)
            squares += float(np.square(values - own).sum()) + (own - mean) ** 2 * count * len(values) / total
            mean += (own - mean) * len(values) / total
            count = total
        return cls(name, mean, float(np.sqrt(squares / count)) if squares > 0 else 1.0)


def count_codes(column: NDArray[np.int32], rows: Ints, *, size: int) -> Ints:
    """How many of `rows` (n,) have each of the `size` values of a column of codes (N,): (size,)."""
    counts = np.zeros(size + 1, dtype=np.int64)
    for part in _parts(rows):
        counts += np.bincount(column[part], minlength=size + 1)
    return counts[1:]


def count_bags(codes: NDArray[np.int32], offsets: Ints, rows: Ints, *, size: int) -> Ints:
    """How often each of the `size` values stands in `rows` (n,) of a field of several values a row: (size,)."""
    counts = np.zeros(size + 1, dtype=np.int64)
    for part in _parts(rows):
        places, _ = bag_places(offsets, part)
        counts += np.bincount(codes[places], minlength=size + 1)
    return counts[1:]


def bag_places(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Where the values of `rows` (B,) stand in the flat array (n,), row after row, and where each begins in that."""
    first = offsets[rows]
    lengths = offsets[rows + 1] - first
    ends = np.cumsum(lengths)
    starts = ends - lengths
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(first - starts, lengths) + np.arange(total), starts


def one_array(column: pa.ChunkedArray) -> pa.StringArray:
    """The values of a column of text as one array."""
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _parts(rows: Ints) -> Iterator[Ints]:
    """The rows in parts whose arrays are small, however many rows there are."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]
