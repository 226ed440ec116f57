"""The shares of the classes, the same for everybody."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Majority:
    """Predicts the shares of the classes in the training labels: `shares` (C,)."""

    def __init__(self, shares: ArrayLike) -> None:
        self.shares: NDArray[np.float64] = np.asarray(shares, dtype=np.float64)

    @classmethod
    def fit(cls, labels: ArrayLike, *, num_classes: int) -> Self:
        """Count the labels (N,) in 0…C-1; classes without any have share 0."""
        labels = np.asarray(labels, dtype=np.int64)
        assert len(labels)
        counts = np.bincount(labels, minlength=num_classes)
        assert len(counts) == num_classes
        return cls(counts / counts.sum())

    def predict(self, count: int) -> NDArray[np.float64]:
        """The shares for `count` users: (count, C)."""
        return np.tile(self.shares, (count, 1))
