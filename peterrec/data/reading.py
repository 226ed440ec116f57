"""Which events of a history are read, in which windows, and with which special rows around them."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from peterrec.data.batches import pad
from peterrec.data.sequences import Sequences
from peterrec.errors import SettingsError

Ints = NDArray[np.int64]
WHOLE = 2**40  # events of a history at most: all of them


class Rows(NamedTuple):
    """Item rows of B users for an encoder: `ids` `(N, L)`, padded on the right, and whose they are.

    `places` `(B, M)` are each user's rows, oldest first, behind -1 where a user has fewer; None: N = B, one each.
    """

    ids: Ints
    places: Ints | None


class Cuts(NamedTuple):
    """Windows `(N,)` of users, user by user, oldest first: whose, which events, and which special rows with them."""

    owners: Ints
    start: Ints
    stop: Ints
    front: NDArray[np.bool_]
    back: NDArray[np.bool_]

    @property
    def lengths(self) -> Ints:
        """Positions of each window `(N,)`."""
        return self.stop - self.start + self.front + self.back


@dataclass(frozen=True)
class Reading:
    """The last `max_length` events of a history (`WHOLE`: all), with the row `front` before and `back` behind them.

    In windows of at most `window` positions, special rows among them, counted from the end, so that only the oldest
    may be shorter; None: in one. `parts`: `all` windows, the `last` one, or the two `ends`, for readouts that read no
    others: the first and the last `window` positions, which may overlap, so that no end stands without its events.
    Raises SettingsError where a window has no room for an event beside its special rows.
    """

    max_length: int = WHOLE
    window: int | None = None
    front: int | None = None
    back: int | None = None
    parts: Literal["all", "last", "ends"] = "all"

    def __post_init__(self) -> None:
        special = (self.front is not None) + (self.back is not None)
        if self.window is not None and self.window <= special:
            raise SettingsError(f"window = {self.window} has no room for an event: set it to {special + 1} or more.")

    def events(self, lengths: NDArray[np.integer]) -> Ints:
        """Events that are read of histories of `lengths` `(B,)`."""
        special = (self.front is not None) + (self.back is not None)
        read = np.minimum(lengths.astype(np.int64), self.max_length) + special
        if self.window is not None and self.parts == "last":
            read = np.minimum(read, self.window)
        elif self.window is not None and self.parts == "ends":
            read = np.minimum(read, 2 * self.window)
        return np.maximum(read - special, 0)

    def cuts(self, lengths: NDArray[np.integer]) -> Cuts:
        """The windows of histories of `lengths` `(B,)` events; one without positions for a user who has none."""
        lengths = lengths.astype(np.int64)
        events = np.minimum(lengths, self.max_length)
        front, back = int(self.front is not None), int(self.back is not None)
        total = events + front + back
        size = int(max(total.max(initial=1), 1)) if self.window is None else self.window
        count = np.maximum(-(-total // size), 1)
        owners = np.repeat(np.arange(len(lengths)), count)
        number = np.arange(len(owners)) - np.repeat(np.cumsum(count) - count, count)
        after = count[owners] - 1 - number  # windows behind this one
        if self.parts != "all":
            kept = (after == 0) | ((number == 0) & (self.parts == "ends"))
            owners, number, after = owners[kept], number[kept], after[kept]
        stop = total[owners] - after * size
        start = np.maximum(stop - size, 0)
        if self.parts == "ends":
            stop = np.maximum(stop, np.minimum(size, total[owners]))
        with_front = (start == 0) & (front > 0)
        with_back = (after == 0) & (back > 0)
        skipped = lengths[owners] - events[owners]
        first = skipped + np.maximum(start - front, 0)
        last = skipped + np.minimum(stop - front, events[owners])
        return Cuts(owners, first, np.maximum(last, first), with_front, with_back)

    def rows(self, sequences: Sequences, users: NDArray[np.integer]) -> Rows:
        """The item rows of the histories `users` `(B,)`."""
        cuts = self.cuts(sequences.lengths[users])
        flat, counts = sequences.gather(users[cuts.owners], cuts.start, cuts.stop)
        if self.front is None and len(cuts.owners) == len(users):
            return Rows(pad(flat, counts, append=self.back), None)
        ids = pad(flat, counts, width=int(cuts.lengths.max(initial=1)))
        if self.front is not None:
            ids[cuts.front] = np.roll(ids[cuts.front], 1, axis=1)  # what comes round is padding: there is room
            ids[cuts.front, 0] = self.front
        if self.back is not None:
            ids[cuts.back, cuts.lengths[cuts.back] - 1] = self.back
        return Rows(ids, places_of(cuts.owners, users=len(users)))


def places_of(owners: NDArray[np.integer], *, users: int) -> Ints | None:
    """Each user's rows `(B, M)`, oldest first, behind -1, of rows whose users `(N,)` rise; None where each has one."""
    if len(owners) == users:
        return None
    count = np.bincount(owners, minlength=users)
    most = int(count.max(initial=1))
    places = np.full((users, most), -1, dtype=np.int64)
    column = np.arange(len(owners)) - np.repeat(np.cumsum(count) - count, count) + (most - count)[owners]
    places[owners, column] = np.arange(len(owners))
    return places
