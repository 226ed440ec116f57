"""Which items are rated alike: the shrunk Pearson correlation of what the biases leave."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.ratings import Ratings

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CELLS = 2**22  # similarities at a time, each from four sums


@dataclass(frozen=True, eq=False)
class SimilarItems:
    """The K items most similar to each of I items, by falling similarity: `items` and `similarity` (I + 1, K).

    Only what correlates above 0 is kept; places that stay free hold the item number I (of similarity 0), as does the
    whole last row, that of an unknown item.
    """

    items: NDArray[np.int32]
    similarity: NDArray[np.float32]

    @classmethod
    def of(cls, ratings: Ratings, baseline: BiasBaseline, *, count: int, shrinkage: float) -> Self:
        """Correlate r − b over the users that two items share, n of them, times (n − 1) / (n − 1 + `shrinkage`).

        Koren (TKDD 2010, §2.2). An item is not similar to itself; of equal ones the first number counts.
        """
        from scipy.sparse import csr_array

        total = ratings.num_items
        count = min(count, max(1, total - 1))
        left = ratings.by_user(ratings.values - baseline.biases(ratings.users, ratings.items))
        value = np.asarray(left.data, dtype=np.float64)
        parts = [_with(left, data) for data in (value, value**2, np.ones_like(value))]
        by_item = [csr_array(part.T) for part in parts]
        (value_of, square_of, there), (values, squares, known) = by_item, parts
        items = np.full((total + 1, count), total, dtype=np.int32)
        similarity = np.zeros((total + 1, count), dtype=np.float32)
        for start in range(0, total, size := max(1, CELLS // total)):
            rows = slice(start, min(start + size, total))
            shared = (there[rows] @ known).toarray()
            spread = (square_of[rows] @ known).toarray() * (there[rows] @ squares).toarray()
            found = np.divide(
                (value_of[rows] @ values).toarray(), np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0
            )
            beyond = np.maximum(shared - 1, 0)
            found *= beyond / np.maximum(beyond + shrinkage, 1)
            found[np.arange(len(found)), np.arange(start, rows.stop)] = 0
            near = np.argpartition(-found, count - 1, axis=1)[:, :count]
            near.sort(axis=1)  # so that of equal ones the first number counts
            best = np.take_along_axis(found, near, axis=1)
            order = np.argsort(-best, axis=1, kind="stable")
            near, best = np.take_along_axis(near, order, axis=1), np.take_along_axis(best, order, axis=1)
            items[rows] = np.where(best > 0, near, total)
            similarity[rows] = np.maximum(best, 0)
        return cls(items, similarity)


def _with(matrix: "csr_array", data: NDArray[np.float64]) -> "csr_array":
    from scipy.sparse import csr_array

    return csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
