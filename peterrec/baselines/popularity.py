"""The most popular items, the same for everybody."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix


class PopularityRanker:
    """Scores an item by its number of events: `counts` (V,), 0 for special rows."""

    def __init__(self, counts: ArrayLike) -> None:
        self.counts: NDArray[np.float32] = np.asarray(counts, dtype=np.float32)

    @classmethod
    def fit(cls, histories: Histories, *, num_items: int) -> Self:
        """Count the events of the training histories."""
        return cls(count_matrix(histories, num_items=num_items).sum(axis=0))

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, V) for B histories: a view of the one row of counts."""
        return np.broadcast_to(self.counts, (len(histories[1]), len(self.counts)))
