"""The mean of all ratings."""

from typing import Self

import numpy as np

from peterrec.baselines.ratings.ratings import Floats, Ints, Ratings


class GlobalMean:
    """μ for every user and item."""

    def __init__(self, mean: float) -> None:
        self.mean: float = mean

    @classmethod
    def fit(cls, ratings: Ratings, *, validation: Ratings | None = None, seed: int = 0) -> Self:
        """Average the ratings; `validation` and `seed` play no part."""
        return cls(ratings.mean)

    def predict(self, users: Ints, items: Ints) -> Floats:
        """μ (B,)."""
        return np.full(len(users), self.mean)
