"""Negatives that many targets of a step share: drawn by popularity or its like, duplicates merged."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import FIRST_ITEM, PAD

MOST_DRAWS = 64  # a wanted negative; a sampler that all but never draws some items would go on for ever
TOLERANCE = 1 / 256


@dataclass(frozen=True)
class Negatives:
    """Distinct items in rising order, rows of the vocabulary `(K,)`, and `log_counts` `(K,)`: the log of how often each
    is expected among them, which is the probability of being drawn at all; infinite where a row only fills up.

    `probabilities` `(V - 3,)` are those of the items in each of so many `draws`.
    """

    rows: Tensor
    log_counts: Tensor
    probabilities: NDArray[np.float64]
    draws: int

    def log_counts_of(self, targets: NDArray[np.integer]) -> Tensor:
        """`log_counts` of other rows `(N,)`, whether they were drawn or not; of special rows anything."""
        return _log_counts(self.probabilities, targets, draws=self.draws)

    def to(self, device: torch.device) -> "Negatives":
        """The same negatives on a device."""
        return replace(self, rows=upload(self.rows, device), log_counts=upload(self.log_counts, device))


@dataclass(frozen=True)
class SharedNegatives:
    """The `sets` of negatives of a step, and which of them each window gets, `of_window` `(B,)`."""

    sets: tuple[Negatives, ...]
    of_window: NDArray[np.integer]

    def of(self, windows: NDArray[np.integer], *, size: int = 0) -> "SharedNegatives":
        """Those of some windows of the step; filled up to `size` windows, which have no targets."""
        chosen = self.of_window[windows]
        return replace(self, of_window=np.pad(chosen, (0, max(size - len(chosen), 0))))


def log_uniform(items: int) -> NDArray[np.float64]:
    """Probabilities `(items,)` of the most frequent item, the next, … that fall about as 1 / rank, by Zipf's law.

    It is the candidate sampler of Jozefowicz et al., Exploring the Limits of Language Modeling (2016).
    """
    return np.diff(np.log(np.arange(1, items + 2))) / np.log(items + 1)


def by_popularity(counts: NDArray[np.integer], *, power: float) -> NDArray[np.float64]:
    """Probabilities as the power of the `counts` of all items (Mikolov et al., 2013, took 0.75); 0 counts as 1."""
    weights = np.maximum(counts, 1).astype(np.float64) ** power
    return weights / weights.sum()


class NegativeSampler:
    """Draws items with `probabilities` `(V - 3,)`, with replacement, and merges duplicates.

    There are as many draws as give `number` distinct items on average (at most 64 `number`). An item of probability p
    is among those of n draws with probability 1 − (1 − p)ⁿ, which makes a sum over the negatives, each divided by it,
    expect the sum over the catalogue (Horvitz & Thompson, 1952). A step's
    draws cost O(n log V) and nothing that grows with V.
    """

    def __init__(self, probabilities: NDArray[np.float64], *, number: int) -> None:
        self.number = number
        self._probabilities = probabilities
        self._cumulative = np.cumsum(probabilities)
        self.draws = number_of_draws(probabilities, distinct=number)

    def draw(self, rng: np.random.Generator, *, padded: bool = False) -> Negatives:
        """Negatives of a step."""
        found = np.searchsorted(self._cumulative, rng.random(self.draws) * self._cumulative[-1], side="right")
        return self.merge(np.minimum(found, len(self._cumulative) - 1) + FIRST_ITEM, padded=padded)

    def merge(self, drawn: NDArray[np.integer], *, padded: bool = False) -> Negatives:
        """The negatives of rows `(n,)` drawn independently of each other, elsewhere perhaps.

        `padded`: filled up with PAD to one of few lengths.
        """
        rows = np.unique(drawn).astype(np.int64)
        log_counts = _log_counts(self._probabilities, rows, draws=len(drawn))
        if padded:
            missing = self._width(len(rows)) - len(rows)
            # in front, so that the order is kept
            rows = np.pad(rows, (missing, 0), constant_values=PAD)
            log_counts = torch.nn.functional.pad(log_counts, (missing, 0), value=torch.inf)
        return Negatives(torch.from_numpy(rows), log_counts, self._probabilities, len(drawn))

    def _width(self, found: int) -> int:
        """Lengths are far apart, and the usual one is well above the mean: most steps have the same."""
        spare = max(self.number // 8, 8)
        return self.number + spare * (1 + 2 * max(-(-(found - self.number - spare) // (2 * spare)), 0))


def number_of_draws(probabilities: NDArray[np.float64], *, distinct: int) -> int:
    """How many draws with replacement give so many distinct items on average, at most 64 times as many."""
    low, high = distinct, MOST_DRAWS * distinct
    while high - low > max(low * TOLERANCE, 1):
        middle = (low + high) // 2 if high < 2 * low else min(2 * low, high - 1)
        if _present(probabilities, draws=middle).sum() < distinct:
            low = middle
        else:
            high = middle
    return high


def _present(probabilities: NDArray[np.float64], *, draws: int) -> NDArray[np.float64]:
    """How likely an item is among so many draws, 1 − (1 − p)ⁿ without cancellation."""
    with np.errstate(divide="ignore"):  # p = 1
        return -np.expm1(draws * np.log1p(-probabilities))


def _log_counts(probabilities: NDArray[np.float64], rows: NDArray[np.integer], *, draws: int) -> Tensor:
    chosen = probabilities[np.maximum(rows - FIRST_ITEM, 0)]
    return torch.from_numpy(np.log(_present(chosen, draws=draws)).astype(np.float32))
