"""Which events stand in which batch: a pure function of (seed, epoch), so that resuming is exact.

Long histories are cut into windows that together cover every event; windows of similar length share a batch, and a
batch holds a nearly constant number of positions (users × length), so that hardly any work goes into padding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.data.vocabulary import PAD

IntArray = NDArray[np.integer]
POOL = 50  # batches whose windows are sorted by length together


@dataclass(frozen=True)
class Windows:
    """Stretches `[start, stop)` of the histories `row`, three `(N,)` arrays."""

    row: IntArray
    start: IntArray
    stop: IntArray

    def __len__(self) -> int:
        return len(self.row)

    @property
    def lengths(self) -> IntArray:
        """Events a window, `(N,)`."""
        return self.stop - self.start


def windows(lengths: IntArray, *, max_length: int, seed: int, epoch: int) -> Windows:
    """Cuts histories of `lengths` `(U,)` into training windows of at most `max_length` + 1 events.

    A window of n events gives n − 1 pairs (event, next event); neighbours share one event, so that each pair of
    consecutive events appears in exactly one window. The cuts of long histories move from epoch to epoch.
    Histories of fewer than two events give none.
    """
    row = np.flatnonzero(lengths >= 2)
    pairs = lengths[row].astype(np.int64) - 1
    shift = np.random.default_rng((seed, epoch, 0)).integers(0, max_length, size=len(row))
    shift = np.where(pairs <= max_length, 0, shift)
    # windows end at shift, shift + max_length, ...; with shift = 0 the first one starts at the first event
    head = (shift > 0).astype(np.int64)
    count = head + -(-(pairs - shift) // max_length)
    each = np.repeat(np.arange(len(row)), count)
    number = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count)
    start = shift[each] + (number - head[each]) * max_length
    stop = np.minimum(start + max_length, pairs[each]) + 1
    return Windows(row=row[each], start=np.maximum(start, 0), stop=stop)


def tails(lengths: IntArray, *, max_length: int) -> Windows:
    """The last `max_length` events of each history of `lengths` `(U,)`, empty histories included."""
    stop = lengths.astype(np.int64)
    return Windows(row=np.arange(len(lengths)), start=np.maximum(stop - max_length, 0), stop=stop)


def plan(lengths: IntArray, *, positions: int, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> list[IntArray]:
    """Groups windows of `lengths` `(N,)` into batches of at most `positions` users × length (at least one window).

    Returns the windows of each batch. Shuffled: windows are drawn into pools of about `POOL` batches, sorted by
    length within the pool, and the batches come in random order. Otherwise sorted by length, longest first.
    """
    if len(lengths) == 0:
        return []
    rng = np.random.default_rng((seed, epoch, 1))
    if shuffle:
        order = rng.permutation(len(lengths))
        pool = np.cumsum(np.maximum(lengths[order], 1)) // (POOL * positions)
        order = order[np.lexsort((-lengths[order], pool))]
    else:
        order = np.argsort(-lengths, kind="stable")
        pool = np.zeros(len(order), dtype=np.int64)
    batches: list[IntArray] = []
    first = 0
    while first < len(order):
        longest = max(int(lengths[order[first]]), 1)  # falling within a pool: the first is the longest
        last = min(first + max(positions // longest, 1), len(order))
        last = min(last, int(np.searchsorted(pool, pool[first], side="right")))
        batches.append(order[first:last])
        first = last
    if shuffle:
        batches = [batches[i] for i in rng.permutation(len(batches))]
    return batches


def cut(lengths: IntArray, *, positions: int | None) -> list[slice]:
    """Cuts windows of `lengths` `(N,)`, in their order, into runs of at most `positions` windows × longest (None: one).

    A run holds one window at least; no windows give no runs.
    """
    runs: list[slice] = []
    first = 0
    while first < len(lengths):
        if positions is None:
            last = len(lengths)
        else:
            size = np.maximum.accumulate(np.maximum(lengths[first:], 1)) * np.arange(1, len(lengths) - first + 1)
            last = first + max(int(np.searchsorted(size, positions, side="right")), 1)
        runs.append(slice(first, last))
        first = last
    return runs


def pad(
    flat: IntArray, lengths: IntArray, *, append: int | None = None, users: int = 0, width: int = 0
) -> NDArray[np.int64]:
    """Lays flat histories out as `(B, L)`, padded on the right with PAD; `append` ends each with that row.

    There are at least `users` rows, the last ones empty, and at least `width` columns.
    """
    count = lengths.astype(np.int64)
    count = np.pad(count, (0, max(users - len(count), 0)))
    extra = 0 if append is None else 1
    width = max(int(count.max(initial=0)) + extra, width, 1)
    out = np.full((len(count), width), PAD, dtype=np.int64)
    out[np.arange(width) < count[:, None]] = flat
    if append is not None:
        out[np.arange(len(count)), count] = append
    return out


def groups(lengths: IntArray, *, users: int, seed: int, epoch: int) -> list[IntArray]:
    """Shuffles histories of `lengths` `(N,)` into batches of `users` of them, similar lengths together.

    Returns the histories of each batch; the last batch of the epoch's order may be smaller. Lengths are sorted
    within pools of a few batches only, so that a user meets other users in each epoch.
    """
    rng = np.random.default_rng((seed, epoch, 1))
    order = rng.permutation(len(lengths))
    pool = np.arange(len(order)) // (8 * users)
    order = order[np.lexsort((-lengths[order], pool))]
    batches = [order[first : first + users] for first in range(0, len(order), users)]
    return [batches[i] for i in rng.permutation(len(batches))]
