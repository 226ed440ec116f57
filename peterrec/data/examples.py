"""Examples of cold start: which target events are predicted, and the histories that each may see."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from peterrec.data.attribute import FEWEST_VALIDATION, Split
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.sequences import Sequences, UserIds
from peterrec.data.target_events import ranges
from peterrec.errors import DataError

Ints = npt.NDArray[np.int64]
Which = Literal["last", "first", "all"]


@dataclass(frozen=True)
class Examples:
    """Target events (n,) to predict, as places in `owner`, `item`, `before` and `place` of the paired logs."""

    events: Ints

    def __len__(self) -> int:
        return len(self.events)

    def owners(self, pairs: PairedLogs) -> Ints:
        """The number of each example's user (n,)."""
        return pairs.owner[self.events]

    def targets(self, pairs: PairedLogs) -> Ints:
        """The target row of each example (n,)."""
        return pairs.item[self.events].astype(np.int64)

    def histories(self, pairs: PairedLogs, *, history: Literal["source", "mixed"]) -> "Prefixes":
        """What each example may see: source events before its target event, or all events before it."""
        if history == "source":
            return Prefixes(pairs.sources, rows=self.owners(pairs), stops=pairs.before[self.events])
        return Prefixes(pairs.mixed, rows=self.owners(pairs), stops=pairs.place[self.events])


class Prefixes(Sequences):
    """A view of `sequences` in which row i holds the first `stops[i]` events of the row `rows[i]` (n,), and no others.

    It serves wherever `Sequences` are read. Raises IndexError for rows or events that do not exist.
    """

    def __init__(self, sequences: Sequences, *, rows: npt.ArrayLike, stops: npt.ArrayLike) -> None:
        # Nothing of the base's own files and offsets is taken over: all reading goes through `sequences`.
        self.folder = sequences.folder
        self._whole = sequences
        self._rows = np.asarray(rows, dtype=np.int64).reshape(-1)
        self.lengths: Ints = np.array(stops, dtype=np.int64).reshape(-1)
        if self._rows.shape != self.lengths.shape:
            raise IndexError(f"{len(self._rows)} rows and {len(self.lengths)} stops; each row has one")
        if self._rows.size and (self._rows.min() < 0 or self._rows.max() >= len(sequences)):
            raise IndexError(
                f"{self.folder}: rows {self._rows.min()} to {self._rows.max()} asked for; it has {len(sequences)}"
            )
        if np.any(self.lengths < 0) or np.any(self.lengths > sequences.lengths[self._rows]):
            raise IndexError(f"{self.folder}: prefixes asked for that are longer than their row")

    @cached_property
    def users(self) -> UserIds:
        """The user ids (n,)."""
        return UserIds(self._whole.users.array.take(pa.array(self._rows)))

    @cached_property
    def targets(self) -> npt.NDArray[np.int32] | None:
        """None: what an example's target is, the paired logs say."""
        return None

    def gather(
        self, rows: npt.ArrayLike, starts: npt.ArrayLike, stops: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int32], Ints]:
        """Events `[starts, stops)` of `rows` (m,): one flat array in that order, and the length of each (m,)."""
        rows, stops = (np.asarray(array, dtype=np.int64).reshape(-1) for array in (rows, stops))
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"{self.folder}: rows {rows.min()} to {rows.max()} asked for; it has {len(self)}")
        if np.any(stops > self.lengths[rows]):
            raise IndexError(f"{self.folder}: events asked for that lie outside of their row")
        return self._whole.gather(self._rows[rows], starts, stops)

    def items_of(self, row: int) -> npt.NDArray[np.int32]:
        """All items that row sees; IndexError if there is no such row."""
        if not 0 <= row < len(self):
            raise IndexError(f"{self.folder}: row {row} asked for; it has {len(self)}")
        return self._whole.items_of(int(self._rows[row]))[: self.lengths[row]]


def choose_events(pairs: PairedLogs, users: Ints, *, which: Which, fewest_source: int = 1) -> Ints:
    """Target events (n,), rising, of `users` (sorted numbers): the last or the first of each user, or all.

    Events with fewer than `fewest_source` source events before them are left out; so `first` is a user's very first
    target event or none.
    """
    starts, stops = pairs.starts[users], pairs.starts[users + 1]
    if which == "last":
        events = stops - 1  # everybody has one
    elif which == "first":
        events = starts
    else:
        events = ranges(starts, stops)
    return events[pairs.before[events] >= fewest_source]


def draw_events(pairs: PairedLogs, users: Ints, *, most: int, fewest_source: int, seed: int, epoch: int) -> Ints:
    """Target events (n,), rising, to train on in an epoch: at most `most` of each of `users` (sorted numbers).

    Drawn without replacement from the events with at least `fewest_source` source events before them; the draw is a
    pure function of users, seed and epoch.
    """
    assert most >= 1
    events = choose_events(pairs, users, which="all", fewest_source=fewest_source)
    owners = pairs.owner[events]
    rng = np.random.default_rng((seed, 23, epoch))
    order = np.lexsort((rng.random(len(events)), owners))  # the events of a user stay together, in random order
    first = np.searchsorted(owners, owners)  # where its user's events begin
    return np.sort(events[order[np.arange(len(events)) - first < most]])


def split_pairs(pairs: PairedLogs, *, fractions: Sequence[float], seed: int) -> Split:
    """A seeded split of all users: sorted numbers (n,) of training, validation and test users.

    With few users there are more for validation than their fraction, as in `split_users`. Raises DataError where a part
    would be empty.
    """
    total = len(pairs)
    learned = fractions[0] + fractions[1]
    share = max(fractions[1] / learned, min(FEWEST_VALIDATION / (total * learned), 0.2))
    test = max(round(total * fractions[2]), 1)
    validation = max(round((total - test) * share), 1)
    train = total - test - validation
    if train < 1:
        raise DataError(
            f"{total} users are in both domains; training, validation and test need one each, so at least three."
        )
    shuffled = np.random.default_rng((seed, 29)).permutation(total)
    return Split(*(np.sort(part) for part in np.split(shuffled, [train, train + validation])))
