"""NDCG@k of lists with labels 0 and 1, where tied scores count by their expectation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.metrics.ratio import Floats


@dataclass(frozen=True)
class ListNdcgs:
    """The NDCG `(G,)` of each list that has a positive row, and one row `(G,)` of it."""

    rows: NDArray[np.int64]
    ndcg: Floats


def list_ndcgs(labels: ArrayLike, scores: ArrayLike, lists: ArrayLike, *, k: int) -> ListNdcgs:
    """NDCG@k of every list from labels 0 or 1, scores and list ids, `(N,)` each.

    The row at place r of its list gains its label / log2(r + 1), up to place k, over the most that the list allows
    (Järvelin & Kekäläinen, 2002). Rows of one score share the mean gain of their places (McSherry & Najork, 2008).
    """
    assert k > 0
    _, place = np.unique(np.asarray(lists), return_inverse=True)
    _, height = np.unique(np.asarray(scores, dtype=np.float64), return_inverse=True)  # -inf has no differences
    if not len(place):
        return ListNdcgs(np.zeros(0, np.int64), np.zeros(0))
    order = np.lexsort((-height, place))
    place, height = place[order], height[order]
    positive = (np.asarray(labels)[order] == 1).astype(np.float64)
    begins = np.searchsorted(place, np.arange(place[-1] + 1))
    rank = np.arange(len(order)) - begins[place]
    discount = np.where(rank < k, 1 / np.log2(rank + 2.0), 0.0)
    tie = np.cumsum((np.diff(place, prepend=-1) != 0) | (np.diff(height, prepend=-1) != 0)) - 1
    shared = np.bincount(tie, discount) / np.bincount(tie)
    gained = np.bincount(place, positive * shared[tie])
    found = np.bincount(place, positive).astype(np.int64)
    most = np.r_[0.0, np.cumsum(1 / np.log2(np.arange(k) + 2.0))][np.minimum(found, k)]
    kept = np.flatnonzero(found)
    return ListNdcgs(order[begins[kept]], gained[kept] / most[kept])
