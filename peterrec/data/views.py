"""Two views of each user's history, drawn at random: what user-level objectives compare."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peterrec.data.batches import IntArray
from peterrec.data.sequences import Sequences

ViewKind = Literal["halves", "crops", "dropout"]

FEWEST_EVENTS = 2  # of a history; one event has no two halves


@dataclass(frozen=True)
class Views:
    """Two views of each of U users: item rows `flat` `(E,)`, view after view, and the events of each, `counts` `(2U,)`.

    The first views of all users stand before the second ones, so that view i and view i + U are of one user.
    """

    flat: NDArray[np.int32]
    counts: NDArray[np.int64]

    @property
    def users(self) -> int:
        """The number U of users."""
        return len(self.counts) // 2

    def swapped(self) -> "Views":
        """The same with each user's views in the other order: beside a view, the one that it shall find."""
        events = int(self.counts[: self.users].sum())
        return Views(np.roll(self.flat, -events), np.roll(self.counts, -self.users))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`counts`, as a part of a prepared log calls them."""
        return self.counts

    def gather(self, rows: IntArray, starts: IntArray, stops: IntArray) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Events `[starts, stops)` of the views `rows` `(n,)`, as a part of a prepared log gives them."""
        lengths = (stops - starts).astype(np.int64)
        begins = (np.cumsum(self.counts) - self.counts)[rows] + starts
        places = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        return self.flat[places], lengths


def eligible(lengths: IntArray) -> NDArray[np.int64]:
    """The histories of `lengths` `(N,)` that are long enough for two views."""
    return np.flatnonzero(lengths >= FEWEST_EVENTS)


def draw_views(
    sequences: Sequences,
    rows: IntArray,
    *,
    kind: ViewKind,
    most: int,
    crop_share: float,
    rng: np.random.Generator,
) -> Views:
    """Two views of each history `rows` `(U,)`; each keeps the order of the events.

    `halves`: two disjoint random halves of the events (an odd one goes to the second). `crops`: two contiguous
    stretches of `crop_share` of the events, each somewhere at random (Xie et al., Contrastive Learning for Sequential
    Recommendation, ICDE 2022, section 3.3). `dropout`: all events twice; the encoder's dropout makes the difference
    (Gao et al., SimCSE, EMNLP 2021). A history gives at most `most` events to its two views together, a crop at most
    as many alone: of more, a random subset. Histories have two events at least.
    """
    lengths = sequences.lengths[rows].astype(np.int64)
    assert lengths.min(initial=FEWEST_EVENTS) >= FEWEST_EVENTS, "a history is too short for two views"
    flat, _ = sequences.gather(rows, np.zeros_like(lengths), lengths)
    if kind == "crops":
        picked = [_crop(lengths, most=most, share=crop_share, rng=rng) for _ in range(2)]
    else:
        order, kept = _ranks(lengths, rng), np.minimum(lengths, most)
        first = np.zeros_like(kept) if kind == "dropout" else kept // 2
        bounds = [(first, kept)] * 2 if kind == "dropout" else [(np.zeros_like(kept), first), (first, kept)]
        picked = [
            (np.flatnonzero((order >= np.repeat(low, lengths)) & (order < np.repeat(high, lengths))), high - low)
            for low, high in bounds
        ]
    events, counts = zip(*picked, strict=True)
    return Views(flat[np.concatenate(events)], np.concatenate(counts))


def _ranks(lengths: IntArray, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of each history's events: the rank `(E,)` of every event of the histories in a row."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((rng.random(len(owner)), owner))
    ranks = np.empty(len(owner), dtype=np.int64)
    ranks[order] = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return ranks


def _crop(
    lengths: IntArray, *, most: int, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A stretch of each history: its events in the histories in a row, and their number."""
    counts = np.clip(np.rint(share * lengths).astype(np.int64), 1, most)
    starts = np.cumsum(lengths) - lengths + rng.integers(0, lengths - counts + 1)
    return np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts), counts
