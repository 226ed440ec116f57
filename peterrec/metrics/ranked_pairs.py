"""AUC from one sort: every pair of a positive and a negative row, under any weights."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.metrics.ratio import Floats, ratio


class RankedPairs:
    """Positive and negative rows in the order of their predictions (N,); labels (N,) are 0 or 1.

    The AUC is the weight of the pairs in which the positive stands higher, a tie a half, over that of all pairs
    (Mann-Whitney with midranks). Row i weighs `row_weights[i]` times the weight of its cluster `clusters[i]`, so
    that a bootstrap which draws users gives a weight a user; without clusters each row is its own.
    """

    def __init__(
        self,
        labels: ArrayLike,
        predictions: ArrayLike,
        *,
        clusters: NDArray[np.integer] | None = None,
        row_weights: ArrayLike | None = None,
    ) -> None:
        positive, scores = np.asarray(labels) == 1, np.asarray(predictions, dtype=np.float64)
        order = np.argsort(scores, kind="stable")
        sides = order[positive[order]], order[~positive[order]]
        # Running sums are taken over the larger class, and read where the rows of the smaller one stand.
        self._turned: bool = len(sides[0]) > len(sides[1])
        few, many = sides[::-1] if self._turned else sides
        self._below = np.searchsorted(scores[many], scores[few], side="left")
        upto = np.searchsorted(scores[many], scores[few], side="right")
        self._upto = None if np.array_equal(upto, self._below) else upto  # None: nothing is tied
        clusters = np.arange(len(scores)) if clusters is None else clusters
        self._few, self._many = clusters[few], clusters[many]
        rows = None if row_weights is None else np.asarray(row_weights, dtype=np.float64)
        self._weights = None if rows is None else (rows[few], rows[many])

    def auc(self, weights: Floats) -> Floats:
        """The AUC () or (R,) under weights of the clusters (U,) or (R, U); NaN where one class weighs nothing."""
        few, many = np.take(weights, self._few, axis=-1), np.take(weights, self._many, axis=-1)
        if self._weights is not None:
            few *= self._weights[0]
            many *= self._weights[1]
        below = np.zeros((*many.shape[:-1], many.shape[-1] + 1))
        np.cumsum(many, axis=-1, out=below[..., 1:])
        beaten = np.take(below, self._below, axis=-1)
        if self._upto is not None:
            beaten += np.take(below, self._upto, axis=-1)
            beaten /= 2
        area = ratio(np.einsum("...i,...i->...", few, beaten), few.sum(-1) * below[..., -1])
        return 1 - area if self._turned else area
