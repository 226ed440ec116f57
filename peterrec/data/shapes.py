"""Batches of few shapes, so that a compiled step, or a CUDA graph of it, serves a whole epoch.

Lengths are rounded up to a small ladder; a batch of a rung always has the same number of users, some of them empty.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.data.batches import IntArray

RUNGS = 10  # a CUDA graph each; fewer would pad more


@dataclass(frozen=True)
class Shape:
    """A batch of `users` rows of `length` positions, padding and empty users included."""

    users: int
    length: int

    @property
    def positions(self) -> int:
        """Users × length."""
        return self.users * self.length


def ladder(lengths: IntArray, *, longest: int, rungs: int = RUNGS) -> NDArray[np.int64]:
    """At most `rungs` lengths, rising, the last one `longest`, to which `lengths` `(N,)` (≥ 1) are rounded up.

    They are those that need the fewest positions of padding, found exactly by dynamic programming over the ends of the
    rungs: with the k-th rung at j, the best of all i < j for the rung below it.
    """
    if len(lengths) == 0:
        return np.array([longest], dtype=np.int64)
    upto = np.cumsum(np.bincount(lengths, minlength=longest + 1)).astype(np.float64)  # how many are at most so long
    ends = np.flatnonzero(np.diff(upto, prepend=0.0))
    ends = ends if ends[-1] == longest else np.append(ends, longest)  # a rung elsewhere would only be longer
    upto = upto[ends]
    cost = ends * upto  # of all lengths up to an end with one rung
    below = [np.full(len(ends), -1)]
    for _ in range(min(rungs, len(ends)) - 1):
        best, came = cost.copy(), np.full(len(ends), -1)
        for j in range(1, len(ends)):
            with_rung = cost[:j] + ends[j] * (upto[j] - upto[:j])
            i = int(with_rung.argmin())
            if with_rung[i] < best[j]:
                best[j], came[j] = with_rung[i], i
        cost = best
        below.append(came)
    found, at = [], len(ends) - 1
    for came in reversed(below):
        found.append(int(ends[at]))
        if (at := int(came[at])) < 0:
            break
    return np.array(found[::-1], dtype=np.int64)


def plan_shapes(
    lengths: IntArray, *, rungs: IntArray, positions: int, seed: int, epoch: int
) -> list[tuple[Shape, IntArray]]:
    """Groups windows of `lengths` `(N,)`, none above the last of `rungs`, into batches of one shape a rung.

    Returns shapes and the windows of each batch, longest first, in random order; a shape has at most `positions` (but
    one user at least). What does not fill a batch of its rung moves up to the next one, so that at most one batch of
    an epoch has empty users.
    """
    rng = np.random.default_rng((seed, epoch, 1))
    order = rng.permutation(len(lengths))
    rung_of = np.searchsorted(rungs, lengths[order])
    batches: list[tuple[Shape, IntArray]] = []
    left = order[:0]
    for number, length in enumerate(rungs.tolist()):
        shape = Shape(max(positions // length, 1), length)
        waiting = np.concatenate([left, order[rung_of == number]])
        stop = len(waiting) if number == len(rungs) - 1 else len(waiting) // shape.users * shape.users
        for first in range(0, stop, shape.users):
            chosen = waiting[first : min(first + shape.users, stop)]
            batches.append((shape, chosen[np.argsort(-lengths[chosen], kind="stable")]))
        left = waiting[stop:]
    assert sum(len(chosen) for _, chosen in batches) == len(lengths), "a window is longer than the last rung"
    return [batches[i] for i in rng.permutation(len(batches))]


def divide(shape: Shape, *, parts: int, positions: int | None) -> Shape:
    """The shape of every piece of a batch that `parts` processes share, each in pieces of at most `positions`.

    A piece has one user at least; None: a process computes its share whole.
    """
    users = -(-shape.users // parts)
    if positions is not None:
        pieces = -(-users // max(positions // shape.length, 1))
        users = -(-users // pieces)
    return Shape(users, shape.length)
