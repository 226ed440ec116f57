"""Histories that came with a request: in memory, readable wherever histories of a file are."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from peterrec.data.sequences import Sequences, UserIds

Ints = npt.NDArray[np.int64]


class Histories(Sequences):
    """N histories of item rows, oldest first: `flat` rows, and how many of them are each one's, `lengths` `(N,)`.

    They serve wherever `Sequences` are read. Users have no ids.
    """

    def __init__(self, flat: npt.ArrayLike, lengths: npt.ArrayLike) -> None:
        # nothing of a file's own: all reading goes through the two arrays
        self.folder = Path("<memory>")
        self.flat = np.asarray(flat, dtype=np.int32).reshape(-1)
        self.lengths: Ints = np.asarray(lengths, dtype=np.int64).reshape(-1)
        self._begin = np.cumsum(self.lengths) - self.lengths
        assert int(self.lengths.sum()) == len(self.flat)

    @classmethod
    def joined(cls, parts: Sequence["Histories"]) -> "Histories":
        """Those of all parts, one part behind the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(np.concatenate([part.flat for part in parts]), np.concatenate([part.lengths for part in parts]))

    @cached_property
    def users(self) -> UserIds:
        """Places as text: requests name nobody."""
        return UserIds(pa.chunked_array([pa.array(map(str, range(len(self))), pa.string())]))

    @cached_property
    def targets(self) -> npt.NDArray[np.int32] | None:
        """None: nobody knows what comes next."""
        return None

    def gather(
        self, rows: npt.ArrayLike, starts: npt.ArrayLike, stops: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int32], Ints]:
        """Events `[starts, stops)` of `rows` `(n,)`: one flat array in that order, and the length of each `(n,)`.

        Raises IndexError for rows or events that do not exist.
        """
        rows, starts, stops = (np.asarray(a, dtype=np.int64).reshape(-1) for a in (rows, starts, stops))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked for; there are {len(self)}")
        if np.any(starts < 0) or np.any(stops < starts) or np.any(stops > self.lengths[rows]):
            raise IndexError("events asked for that lie outside of their row")
        lengths = stops - starts
        before = np.cumsum(lengths) - lengths
        places = np.arange(int(lengths.sum())) + np.repeat(self._begin[rows] + starts - before, lengths)
        return self.flat[places], lengths

    def items_of(self, row: int) -> npt.NDArray[np.int32]:
        """All items of one history; IndexError if there is no such row."""
        return self.gather([row], [0], [self.lengths[row]])[0]
