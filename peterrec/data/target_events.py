"""Target events of a paired log by their users: places in its `owner`, `item`, `before` and `place`."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.cross_domain import PairedLogs
from peterrec.metrics.ranking import Histories

Ints = NDArray[np.int64]


def target_counts(pairs: PairedLogs, users: Ints) -> Ints:
    """How many target events `users` (U,) have with each target row: (W,)."""
    events = ranges(pairs.starts[users], pairs.starts[users + 1])
    return np.bincount(pairs.item[events], minlength=len(pairs.target_vocabulary))


def earlier_targets(pairs: PairedLogs, events: Ints) -> Histories:
    """The target rows that the user of each of `events` (n,) had before it, and their number (n,)."""
    first = pairs.starts[pairs.owner[events]]
    return pairs.item[ranges(first, events)], events - first


def ranges(starts: Ints, stops: Ints) -> Ints:
    """The numbers from each of `starts` (n,) up to its stop, one range after the other."""
    lengths = stops - starts
    return np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
