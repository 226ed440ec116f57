"""What the baselines of a cold start learn from and read: histories, and the target items that go with them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.target_events import ranges
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.metrics.ranking import Histories

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CrossExamples:
    """N rows of a history that is read (`sources`) and the target rows that go with it (`targets`), one or several."""

    sources: Histories
    targets: Histories

    @classmethod
    def of_users(cls, pairs: PairedLogs, users: Ints, *, mixed: bool) -> "CrossExamples":
        """One row for each of `users`: what they had before their last target event, and all their target items.

        A `mixed` history would hold the very items that it goes with: it ends where the second half of the user's
        target events begins, and goes with that half.
        """
        first, stops = pairs.starts[users], pairs.starts[users + 1]
        if mixed:
            first = first + (stops - first) // 2
        read = histories_of(pairs, first if mixed else stops - 1, mixed=mixed)
        return cls(read, (pairs.item[ranges(first, stops)], stops - first))

    @classmethod
    def of_events(cls, pairs: PairedLogs, events: Ints, *, mixed: bool, recent: int | None = None) -> "CrossExamples":
        """One row for each of the target `events`: what its user had before it (`recent` at most), and its item."""
        read = histories_of(pairs, events, mixed=mixed, recent=recent)
        return cls(read, (pairs.item[events], np.ones(len(events), dtype=np.int64)))

    def pairs_of_items(self) -> int:
        """How many pairs of an item that is read and one that goes with it there are, the same ones counted again."""
        return int(np.dot(self.sources[1].astype(np.int64), self.targets[1].astype(np.int64)))


def histories_of(pairs: PairedLogs, events: Ints, *, mixed: bool, recent: int | None = None) -> Histories:
    """What the user of each of `events` had before it: source items alone, or both kinds; the `recent` last at most."""
    sequences, stops = (pairs.mixed, pairs.place[events]) if mixed else (pairs.sources, pairs.before[events])
    starts = np.zeros_like(stops) if recent is None else np.maximum(stops - recent, 0)
    return sequences.gather(pairs.owner[events], starts, stops)


def items_read(pairs: PairedLogs, *, mixed: bool) -> int:
    """How many items a history may hold: those of the source, and of the target too where it is `mixed`."""
    items = len(pairs.source_vocabulary) - FIRST_ITEM
    return items + len(pairs.target_vocabulary) - FIRST_ITEM if mixed else items
