"""What a step works on: its shape, its items, and how many operations are useful."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.data.vocabulary import FIRST_ITEM

DILATIONS = (1, 2, 4, 8)
KERNEL = 3
COPIES_OF_LOGITS = 3  # logits, their softmax, its gradient: what stock cross-entropy holds at its peak


@dataclass(frozen=True)
class Workload:
    """A table of `vocabulary` rows of `channels`; a batch of `users` full histories of `length` events."""

    vocabulary: int
    length: int
    channels: int
    users: int
    convolutions: int = 16

    @property
    def dilations(self) -> tuple[int, ...]:
        """One number a convolution."""
        return tuple(DILATIONS[number % len(DILATIONS)] for number in range(self.convolutions))

    @property
    def positions(self) -> int:
        """Users × length."""
        return self.users * self.length

    def histories(self, users: int, *, seed: int = 0) -> NDArray[np.int64]:
        """Events `(users, length + 1)`, one more than a step reads, since the last one is a target."""
        return zipf_items((users, self.length + 1), vocabulary=self.vocabulary, seed=seed)

    def convolution_flops(self) -> float:
        """Operations of forward and backward at one position: 2 · 3 · D² forward, twice that backward."""
        return 6.0 * KERNEL * self.channels**2 * self.convolutions

    def softmax_flops(self, classes: int | None = None) -> float:
        """Operations of a target's scores and their two gradients among `classes` (all rows by default)."""
        return 6.0 * (self.vocabulary if classes is None else classes) * self.channels

    def bytes_of_logits(self, targets: int) -> int:
        """What stock cross-entropy over all rows holds for so many targets, float32."""
        return 4 * COPIES_OF_LOGITS * self.vocabulary * targets

    def __str__(self) -> str:
        return f"V = {self.vocabulary:,}, L = {self.length}, D = {self.channels}"


def zipf_items(shape: tuple[int, ...], *, vocabulary: int, seed: int) -> NDArray[np.int64]:
    """Item rows by a log-uniform law (nearly Zipf's), frequent ones first, as vocabularies are ordered."""
    items = vocabulary - FIRST_ITEM
    drawn = np.exp(np.random.default_rng(seed).random(shape) * np.log(items + 1)).astype(np.int64) - 1
    return np.minimum(drawn, items - 1) + FIRST_ITEM
