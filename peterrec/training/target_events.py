"""The target events of a training and the histories that they may see, each history once."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples, Prefixes, choose_events, draw_events

Ints = NDArray[np.int64]


class TargetEvents:
    """What can be drawn in `epochs` epochs from the target events of `users`, and the events `validation`.

    `histories` holds a row for each different history of the training events, then one for each of the validation's:
    several target events without a new source event between them see the same.
    """

    def __init__(
        self,
        pairs: PairedLogs,
        users: Ints,
        *,
        validation: Ints,
        history: Literal["source", "mixed"],
        most: int,
        fewest_source: int,
        seed: int,
        epochs: int,
    ) -> None:
        self._pairs = pairs
        self._users = users
        self._draw = {"most": most, "fewest_source": fewest_source, "seed": seed}
        self.events = choose_events(pairs, users, which="all", fewest_source=fewest_source)
        each = np.unique(pairs.owner[self.events], return_counts=True)[1]
        if np.minimum(each, most).sum() * epochs < len(self.events):  # some are never seen: nor need their histories be
            self.events = np.unique(np.concatenate([self.draw(epoch) for epoch in range(1, epochs + 1)]))
        owner = pairs.owner[self.events]
        stops = (pairs.before if history == "source" else pairs.place)[self.events].astype(np.int64)
        size = int(stops.max(initial=0)) + 1
        keys, self._history_of = np.unique(owner * size + stops, return_inverse=True)
        shown = Examples(validation).histories(pairs, history=history)
        whole = pairs.sources if history == "source" else pairs.mixed
        self.histories = Prefixes(
            whole,
            rows=np.concatenate([keys // size, pairs.owner[validation]]),
            stops=np.concatenate([keys % size, shown.lengths]),
        )
        self.train = np.arange(len(keys))
        self.validation = np.arange(len(keys), len(self.histories))

    def draw(self, epoch: int) -> Ints:
        """The events of an epoch (n,), rising; a pure function of the epoch."""
        return draw_events(self._pairs, self._users, **self._draw, epoch=epoch)

    def history_of(self, events: Ints) -> Ints:
        """The row in `histories` of each of some training events (n,)."""
        return self._history_of[np.searchsorted(self.events, events)]
