"""Histories of many users as one flat array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Histories:
    """World item numbers of N users, row after row: row n is `items[offsets[n]:offsets[n + 1]]`.

    `items` is int32 (events,), with −1 for an item that the world does not know; `offsets` is int64 (N + 1,).
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The items of one row."""
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Events of each row, (N,)."""
        return np.diff(self.offsets)

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each event, (events,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def known(self) -> "Histories":
        """The same histories without the unknown items."""
        keep = self.items >= 0
        if keep.all():
            return self
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return Histories(self.items[keep], kept_before[self.offsets])

    @classmethod
    def of_lengths(cls, items: NDArray[np.int32], lengths: NDArray[np.int64]) -> "Histories":
        """Histories from flat items (events,) and the length of each row (N,)."""
        return cls(items, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def of_ids(cls, sequences: Sequence[Sequence[str]], *, numbers: Mapping[str, int]) -> "Histories":
        """Histories from item ids; an id that is not in `numbers` becomes −1."""
        flat = np.fromiter((numbers.get(item, -1) for row in sequences for item in row), np.int32)
        return cls.of_lengths(flat, np.fromiter(map(len, sequences), np.int64, len(sequences)))
