"""What stands around items in histories: for items that are new, which of the known ones."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM

REACH = 2  # events on each side
EVENTS_AT_ONCE = 1 << 22


def surroundings(histories: Sequences, *, known: int, rows: int, reach: int = REACH) -> csr_array:
    """How often each known row stands within `reach` events of each new one, `(rows - known, known)`.

    Rows below `known` are known; special rows are none's surroundings. An event counts once for each new item near it.
    """
    total = csr_array((rows - known, known), dtype=np.float64)
    for chosen in _blocks(histories):
        flat, lengths = histories.gather(chosen, np.zeros(len(chosen), dtype=np.int64), histories.lengths[chosen])
        if not (flat >= known).any():
            continue
        owner = np.repeat(np.arange(len(chosen)), lengths)
        new, near = [], []
        for step in range(1, reach + 1):
            together = owner[step:] == owner[:-step]
            for one, other in ((flat[:-step], flat[step:]), (flat[step:], flat[:-step])):
                counts = together & (one >= known) & (other < known) & (other >= FIRST_ITEM)
                new.append(one[counts])
                near.append(other[counts])
        places = (np.concatenate(new).astype(np.int64) - known, np.concatenate(near).astype(np.int64))
        total = total + csr_array((np.ones(len(places[0])), places), shape=total.shape)
    return csr_array(total)


def _blocks(histories: Sequences) -> Iterator[NDArray[np.int64]]:
    """Numbers of histories that follow each other, about `EVENTS_AT_ONCE` events at a time."""
    ends = np.cumsum(histories.lengths)
    first = 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        stop = max(int(np.searchsorted(ends, before + EVENTS_AT_ONCE, side="right")), first + 1)
        yield np.arange(first, stop)
        first = stop
