"""The item rows of sorted events, as a query streams them."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class RowStream:
    """The column `row` of record batches, taken in pieces of any size."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._rest = np.empty(0, dtype=np.int32)

    def take(self, events: int) -> npt.NDArray[np.int32]:
        """The next `events` rows (events,); there must be so many."""
        out = np.empty(events, dtype=np.int32)
        filled = 0
        while filled < events:
            if not len(self._rest):
                self._rest = next(self._batches)["row"].to_numpy()
            piece = self._rest[: events - filled]
            out[filled : filled + len(piece)] = piece
            self._rest = self._rest[len(piece) :]
            filled += len(piece)
        return out
