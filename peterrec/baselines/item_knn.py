"""Item-based nearest neighbours with cosine similarity (Deshpande and Karypis, 2004)."""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix, last_items
from peterrec.baselines.popularity import PopularityRanker
from peterrec.data.vocabulary import FIRST_ITEM

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CELLS = 2**24  # similarities at a time: they are far denser than what is kept of them


class ItemKNN:
    """Scores an item by its similarities to those of the user's `recent` last items that are its neighbours.

    Its `neighbours` are the items of highest cosine between the sets of users who had them. Items that score
    nothing stand below the others, by popularity.
    """

    def __init__(self, similarities: "csr_array", popularity: PopularityRanker, *, recent: int = 10) -> None:
        self.similarities: csr_array = similarities  # (V, V): a candidate's row holds its neighbours
        self.recent: int = recent
        # Less than any similarity, so that it only orders what scores nothing.
        share = popularity.counts / (popularity.counts.max(initial=0) + 1)
        self._backoff: NDArray[np.float32] = share * similarities.data.min(initial=1.0)

    @classmethod
    def fit(cls, histories: Histories, *, num_items: int, neighbours: int = 200, recent: int = 10) -> Self:
        """Find the neighbours of every item in the training histories."""
        from scipy.sparse import csr_array, vstack

        counts = count_matrix(histories, num_items=num_items)
        popularity = PopularityRanker(counts.sum(axis=0))
        rows = FIRST_ITEM + num_items
        users = np.bincount(counts.indices, minlength=rows)
        unit = (1 / np.sqrt(users[counts.indices])).astype(np.float32)
        matrix = csr_array((unit, counts.indices, counts.indptr), shape=(len(histories[1]), rows))
        by_item = csr_array(matrix.T)
        blocks = []
        for start in range(0, rows, size := max(1, CELLS // rows)):
            block = csr_array(by_item[start : start + size] @ matrix)
            blocks.append(_nearest(block, start=start, count=neighbours))
        return cls(csr_array(vstack(blocks, format="csr")), popularity, recent=recent)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, V) for B histories."""
        num_items = len(self._backoff) - FIRST_ITEM
        recent = count_matrix(last_items(histories, count=self.recent), num_items=num_items)
        scores = (recent.astype(np.float32) @ self.similarities.T).toarray()
        return np.where(scores > 0, scores, self._backoff)


def _nearest(similarities: "csr_array", *, start: int, count: int) -> "csr_array":
    """The `count` largest entries of each row, that of the item itself (column `start` + row) left out."""
    from scipy.sparse import csr_array

    columns, values, ends = [], [], [0]
    bounds = zip(similarities.indptr, similarities.indptr[1:], strict=False)
    for row, (first, last) in enumerate(bounds):
        near, value = similarities.indices[first:last], similarities.data[first:last]
        others = near != start + row
        near, value = near[others], value[others]
        if len(near) > count:
            kept = np.argpartition(value, len(value) - count)[-count:]
            near, value = near[kept], value[kept]
        columns.append(near)
        values.append(value)
        ends.append(ends[-1] + len(near))
    parts = (np.concatenate(values), np.concatenate(columns), np.asarray(ends))
    return csr_array(parts, shape=similarities.shape)
