"""Nearest neighbours with fixed similarities, around the biases."""

from typing import ClassVar, Self

import numpy as np

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.ratings import Floats, Ints, Ratings
from peterrec.baselines.ratings.similar_items import SimilarItems
from peterrec.baselines.ratings.user_groups import user_groups

NEIGHBOURS, CANDIDATES, SHRINKAGE = 40, 500, 100.0
CELLS = 2**22  # candidates at a time


class ItemNeighbours:
    """b_ui + Σ s_ij (r_uj − b_uj) / Σ s_ij over the `neighbours` items j most similar to i that the user rated.

    Koren (KDD 2008, §2.2), with the shrunk Pearson correlation of `SimilarItems`, of which the `candidates` largest of
    each item are kept, so that memory is items times candidates. Only similarities above 0 count; without any it is the
    baseline. Weights of rows count in the biases alone.
    """

    by_user: ClassVar[bool] = False

    def __init__(self, ratings: Ratings, baseline: BiasBaseline, similar: SimilarItems, *, neighbours: int) -> None:
        self.neighbours: int = neighbours
        self.similar: SimilarItems = similar
        self._ratings, self._baseline = ratings, baseline
        self._left = ratings.by_user(ratings.values - baseline.biases(ratings.users, ratings.items))

    @classmethod
    def fit(
        cls,
        ratings: Ratings,
        *,
        validation: Ratings | None = None,
        seed: int = 0,
        neighbours: int = NEIGHBOURS,
        candidates: int = CANDIDATES,
        shrinkage: float = SHRINKAGE,
    ) -> Self:
        """Correlate items; `validation` and `seed` play no part."""
        baseline = BiasBaseline.fit(ratings)
        if cls.by_user:
            ratings = ratings.transposed()
            baseline = BiasBaseline(ratings, user_bias=baseline.item_bias, item_bias=baseline.user_bias)
        similar = SimilarItems.of(ratings, baseline, count=candidates, shrinkage=shrinkage)
        return cls(ratings, baseline, similar, neighbours=neighbours)

    def predict(self, users: Ints, items: Ints) -> Floats:
        """The ratings (B,), clipped."""
        if self.by_user:
            users, items = items, users
        users, items = self._ratings.places(users, items)
        found = self._baseline.biases(users, items)
        size = max(1, CELLS // self.similar.items.shape[1])
        for own, left, rated, _ in user_groups(users, self._left, self._ratings):
            for start in range(0, len(own), size):
                rows = own[start : start + size]
                near = self.similar.items[items[rows]]
                counts = rated[near]
                counts &= np.cumsum(counts, axis=1, dtype=np.int32) <= self.neighbours
                weight = np.where(counts, self.similar.similarity[items[rows]], 0.0)
                total = weight.sum(axis=1)
                near_left = (weight * left[near]).sum(axis=1)
                found[rows] += np.divide(near_left, total, out=np.zeros(len(rows)), where=total > 0)
        return self._ratings.clipped(found)


class UserNeighbours(ItemNeighbours):
    """The same with users and items exchanged: users who rated alike (Herlocker et al., 1999), around the biases."""

    by_user: ClassVar[bool] = True
