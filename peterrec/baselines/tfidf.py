"""TF-IDF weights of the items in a history."""

from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix
from peterrec.data.vocabulary import FIRST_ITEM

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Weighting = Literal["tfidf", "binary"]


class TfIdf:
    """Histories as rows of length 1: (1 + ln tf) · (1 + ln((1 + N) / (1 + df))) an item, or 1 where "binary".

    The logarithm of tf keeps one item that is repeated daily from drowning the rest.
    """

    def __init__(self, num_items: int, *, weighting: Weighting = "tfidf") -> None:
        self.num_items: int = num_items
        self.weighting: Weighting = weighting
        self._idf: NDArray[np.float64] | None = None

    def fit(self, histories: Histories) -> Self:
        """Learn in how many of the histories each item occurs."""
        matrix = count_matrix(histories, num_items=self.num_items)
        occurs = np.bincount(matrix.indices, minlength=FIRST_ITEM + self.num_items)
        idf = 1 + np.log((1 + len(histories[1])) / (1 + occurs))
        self._idf = idf if self.weighting == "tfidf" else np.ones(len(occurs))
        return self

    def transform(self, histories: Histories) -> "csr_array":
        """The rows of the histories: (N, V), a row of zeros where there are no items."""
        assert self._idf is not None, "fit first"
        matrix = count_matrix(histories, num_items=self.num_items)
        tf = 1 + np.log(matrix.data) if self.weighting == "tfidf" else np.ones_like(matrix.data)
        matrix.data = tf * self._idf[matrix.indices]
        norms = np.sqrt(matrix.power(2).sum(axis=1))
        matrix.data /= np.repeat(norms, np.diff(matrix.indptr))  # rows without items have no data to divide
        return matrix
