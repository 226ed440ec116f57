"""Attributes of target items as numbers: which values an item has, and how much each of them counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, did_you_mean

Name = tuple[str, str]
"""A column of the items table and a value in it."""


@dataclass(frozen=True)
class ItemFeatures:
    """The F attribute values `names`, and for each of W rows the numbers of those that it has.

    `values` `(W, M)` are numbers of names, `weights` `(W, M)` how much each counts: within a column they sum to 1, so
    that an item's part of that column is a mean. Where a row has fewer than M values, the weights are 0.
    """

    names: tuple[Name, ...]
    values: NDArray[np.int64]
    weights: NDArray[np.float32]

    @property
    def width(self) -> int:
        """M, the most values that an item has."""
        return self.values.shape[1]


def item_features(
    items: pa.Table | None, *, vocabulary: Vocabulary, columns: Sequence[str], names: Sequence[Name] | None = None
) -> ItemFeatures:
    """The values of `columns` that the items of `vocabulary` (W rows) have; a cell `a|b`, or a list, holds several.

    `items` has the ids in `item`; items that it lacks, and special rows, have no values. With `names`, those of an
    earlier call, other values are left out. Raises DataError where there is no table, no such column, one of numbers
    that are not whole, or where no item has a value.
    """
    if items is None:
        raise DataError(
            f"item_features names {', '.join(columns)}, but the logs came without an items table; name one with "
            "--items, or leave item_features out of the task."
        )
    known = [name for name in items.column_names if name != "item"]
    for column in columns:
        if column not in known:
            raise DataError(f"item_features: the items table has no column {column!r}. {did_you_mean(column, known)}")
    rows = vocabulary.rows(items["item"])
    cells = {column: [_values(cell, column) for cell in items[column].to_pylist()] for column in columns}
    if names is None:
        found = {
            (column, value)
            for column, all_ in cells.items()
            for row, cell in zip(rows, all_, strict=True)
            if row >= 0
            for value in cell
        }
        names = sorted(found)
    if not names:
        raise DataError(f"item_features: no item of the catalogue has a value in {', '.join(columns)}.")
    number = {name: place for place, name in enumerate(names)}
    held: list[list[tuple[int, float]]] = [[] for _ in range(len(vocabulary))]
    for column, all_ in cells.items():
        for row, cell in zip(rows.tolist(), all_, strict=True):
            numbers = [number[column, value] for value in cell if (column, value) in number]
            if row >= 0:
                held[row] += [(place, 1 / len(numbers)) for place in numbers]
    width = max(1, *map(len, held))
    values = np.zeros((len(vocabulary), width), dtype=np.int64)
    weights = np.zeros((len(vocabulary), width), dtype=np.float32)
    for row, pairs in enumerate(held):
        if pairs:
            values[row, : len(pairs)], weights[row, : len(pairs)] = zip(*pairs, strict=True)
    return ItemFeatures(tuple(names), values, weights)


def _values(cell: object, column: str) -> list[str]:
    """The distinct values of a cell as text, in order."""
    if cell is None:
        return []
    if isinstance(cell, float):
        raise DataError(
            f"item_features: column {column!r} holds numbers such as {cell!r}; attributes are text or whole numbers: "
            "give classes of them, or leave the column out."
        )
    parts = cell if isinstance(cell, list) else str(cell).split("|")
    return list(dict.fromkeys(text for part in parts if part is not None and (text := str(part).strip())))
