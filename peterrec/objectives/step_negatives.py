"""The negatives of each step of a training, as the objective's settings say."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.objectives.negatives import Negatives, NegativeSampler, SharedNegatives, by_popularity, log_uniform
from peterrec.objectives.settings import ObjectiveSettings

HISTORIES_AT_ONCE = 1 << 16


class StepNegatives:
    """Draws the negatives that the targets of a step share, whatever processes and pieces compute it.

    Sharing makes the same error for all, so there are several sets, and the windows are dealt out to them.
    `rows` is the length of the vocabulary. Popularity is that in the training histories, counted once.
    """

    def __init__(self, train: Sequences, *, objective: ObjectiveSettings, rows: int) -> None:
        self._train = train
        self._sets = objective.negative_sets
        self._in_batch = objective.sampler == "in_batch"
        counts = item_counts(train, rows=rows)
        if objective.sampler == "log_uniform":
            # rows stand by falling count only where no items were appended later
            probabilities = np.empty(rows - FIRST_ITEM)
            probabilities[np.argsort(-counts, kind="stable")] = log_uniform(rows - FIRST_ITEM)
        else:
            power = 1.0 if self._in_batch else objective.popularity_power
            probabilities = by_popularity(counts, power=power)
        self.sampler = NegativeSampler(probabilities, number=objective.negatives)

    def draw(
        self,
        rng: np.random.Generator,
        *,
        row: NDArray[np.integer],
        start: NDArray[np.integer],
        stop: NDArray[np.integer],
        padded: bool = False,
    ) -> SharedNegatives:
        """Negatives of the step on the windows `[start, stop)` of the histories `row`; `padded`: in few lengths.

        In-batch ones are some of its targets, taken for independent draws by popularity, which they are the less the
        fewer users a step has; one that has too few targets gives fewer.
        """
        number = max(min(self._sets, len(row)), 1)
        if self._in_batch:
            sets = [self._targets(rng, row, start, stop, padded) for _ in range(number)]
        else:
            sets = [self.sampler.draw(rng, padded=padded) for _ in range(number)]
        return SharedNegatives(tuple(sets), np.arange(len(row)) % number)

    def _targets(
        self,
        rng: np.random.Generator,
        row: NDArray[np.integer],
        start: NDArray[np.integer],
        stop: NDArray[np.integer],
        padded: bool,
    ) -> Negatives:
        ends = np.cumsum(stop - start - 1)
        chosen = rng.choice(int(ends[-1]), size=min(self.sampler.draws, int(ends[-1])), replace=False)
        window = np.searchsorted(ends, chosen, side="right")
        # the last pair of a window ends with its last event
        event = stop[window] - (ends[window] - chosen)
        return self.sampler.merge(self._train.gather(row[window], event, event + 1)[0], padded=padded)


def item_counts(train: Sequences, *, rows: int) -> NDArray[np.int64]:
    """How often each item occurs in the histories, `(rows - 3,)`."""
    counts = np.zeros(rows, dtype=np.int64)
    for chosen in _slices(len(train)):
        flat, _ = train.gather(chosen, np.zeros(len(chosen), dtype=np.int64), train.lengths[chosen])
        counts += np.bincount(flat, minlength=rows)
    return counts[FIRST_ITEM:]


def _slices(histories: int) -> Iterator[NDArray[np.int64]]:
    for first in range(0, histories, HISTORIES_AT_ONCE):
        yield np.arange(first, min(first + HISTORIES_AT_ONCE, histories))
