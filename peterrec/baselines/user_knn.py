"""User-based nearest neighbours across two catalogues: what users with a similar source history took."""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix
from peterrec.baselines.popularity import PopularityRanker
from peterrec.baselines.strongest import strongest
from peterrec.baselines.tfidf import TfIdf, Weighting

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CELLS = 2**24  # similarities at a time


class UserKNN:
    """Scores a target item by the similarities of those of the `neighbours` nearest training users who had it.

    Similarity is the cosine of the weighted bags of source items (Herlocker et al., 1999; of equal neighbours the
    earlier user counts). Items that score nothing stand below the others, by popularity.
    """

    def __init__(
        self, weights: TfIdf, bags: "csr_array", taken: "csr_array", popularity: PopularityRanker, *, neighbours: int
    ) -> None:
        self.neighbours: int = neighbours
        self._weights = weights
        self._bags: csr_array = bags  # (V, N), of the N training users
        self._users: int = len(taken.indptr) - 1
        self._taken: csr_array = taken  # (N, W), 1 where a user had the item
        # between 0 and 1
        self._backoff: NDArray[np.float32] = popularity.counts / (popularity.counts.max(initial=0) + 1)

    @classmethod
    def fit(
        cls,
        sources: Histories,
        targets: Histories,
        *,
        num_sources: int,
        num_targets: int,
        neighbours: int = 200,
        weighting: Weighting = "tfidf",
    ) -> Self:
        """Remember the training users: row i of `sources` and of `targets` is the same one."""
        from scipy.sparse import csr_array

        weights = TfIdf(num_sources, weighting=weighting).fit(sources)
        taken = count_matrix(targets, num_items=num_targets)
        popularity = PopularityRanker(taken.sum(axis=0))
        taken.data = np.ones(len(taken.data), dtype=np.float32)
        bags = csr_array(weights.transform(sources).T, dtype=np.float32)
        return cls(weights, bags, taken, popularity, neighbours=neighbours)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, W) of the target items for B source histories."""
        from scipy.sparse import csr_array

        bags = csr_array(self._weights.transform(histories), dtype=np.float32)
        out = np.empty((len(histories[1]), len(self._backoff)), dtype=np.float32)
        for start in range(0, len(out), size := max(1, CELLS // max(1, self._users))):
            rows = slice(start, start + size)
            near = strongest(csr_array(csr_array(bags[rows]) @ self._bags), count=self.neighbours)
            scores = csr_array(near @ self._taken).toarray()
            least = np.where(scores > 0, scores, np.inf).min(axis=1, keepdims=True)
            # below the least score of the user, so that it only orders what scores nothing
            out[rows] = np.where(scores > 0, scores, self._backoff * np.minimum(least, 1.0))
        return out
