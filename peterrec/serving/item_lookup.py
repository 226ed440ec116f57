"""From item ids to rows, fast for a few ids of a large vocabulary."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.serving.histories import Histories

Ids = Sequence[str]


class ItemLookup:
    """The rows of a `vocabulary`, found by hashes of its ids: 16 bytes an item, made once.

    (`Vocabulary.rows` makes a table of all items at each call, which is right for a log and too slow for a request.)
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._items = vocabulary.items
        there = np.flatnonzero(~np.asarray(vocabulary.items.is_null()))
        ids = vocabulary.items.take(pa.array(there)).to_pylist()
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._rows = hashes[order], there[order] + FIRST_ITEM
        # ids of one hash, all but certainly none, are looked up by themselves
        again = np.flatnonzero(np.diff(self._hashes) == 0)
        alike = sorted({int(place) for one in again for place in (one, one + 1)})
        self._alike = {self._items[int(self._rows[at]) - FIRST_ITEM].as_py(): int(self._rows[at]) for at in alike}

    def rows(self, ids: Ids) -> NDArray[np.int32]:
        """The rows `(N,)` of N ids; -1 where an id is unknown."""
        if not len(ids) or not len(self._hashes):
            return np.full(len(ids), -1, dtype=np.int32)
        hashes = np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        rows = np.where(self._hashes[places] == hashes, self._rows[places], -1)
        found = np.flatnonzero(rows >= 0)
        names = self._items.take(pa.array(rows[found] - FIRST_ITEM)).to_pylist()
        for place, name in zip(found.tolist(), names, strict=True):
            if name != ids[place]:  # another id of the same hash
                rows[place] = self._alike.get(ids[place], -1)
        return rows.astype(np.int32)

    def histories(self, lists: Sequence[Ids]) -> Histories:
        """Lists of ids, oldest first, as histories; what is unknown is left out."""
        rows = self.rows([name for ids in lists for name in ids])
        known = rows >= 0
        before = np.concatenate([[0], np.cumsum(known)])
        ends = np.cumsum([0, *map(len, lists)])
        return Histories(rows[known], np.diff(before[ends]))
