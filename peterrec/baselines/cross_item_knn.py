"""Item neighbours across two catalogues: which target items go with which source items."""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, count_matrix
from peterrec.baselines.popularity import PopularityRanker
from peterrec.baselines.strongest import strongest
from peterrec.data.vocabulary import FIRST_ITEM

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CELLS = 2**24  # similarities at a time: they are far denser than what is kept of them


class CrossItemKNN:
    """Scores a target item by its similarities to those source items of a history that are its neighbours.

    The similarity is the cosine between the sets of training rows (users, or examples) that hold each (Sarwar et al.,
    2001), shrunk where few hold both (Bell and Koren, 2007). Items that score nothing stand below the others, by
    popularity.
    """

    def __init__(self, similarities: "csr_array", popularity: PopularityRanker, *, num_sources: int) -> None:
        self.similarities: csr_array = similarities  # (W, V): a target item's row holds its neighbours
        self.num_sources: int = num_sources
        # Less than any similarity, so that it only orders what scores nothing.
        share = popularity.counts / (popularity.counts.max(initial=0) + 1)
        self._backoff: NDArray[np.float32] = share * similarities.data.min(initial=1.0)

    @classmethod
    def fit(
        cls,
        sources: Histories,
        targets: Histories,
        *,
        num_sources: int,
        num_targets: int,
        neighbours: int = 200,
        shrinkage: float = 10.0,
    ) -> Self:
        """Find the neighbours of every target item; row i of `sources` and `targets` is one user, or one example.

        A pair that n rows share has the similarity cosine × n / (n + shrinkage).
        """
        from scipy.sparse import csr_array, vstack

        read, taken = (
            count_matrix(part, num_items=size) for part, size in ((sources, num_sources), (targets, num_targets))
        )
        popularity = PopularityRanker(taken.sum(axis=0))
        for matrix in (read, taken):
            matrix.data = np.ones(len(matrix.data), dtype=np.float32)
        read_rows, taken_rows = (FIRST_ITEM + size for size in (num_sources, num_targets))
        source_norms = np.sqrt(np.bincount(read.indices, minlength=read_rows))
        target_norms = np.sqrt(np.bincount(taken.indices, minlength=taken_rows))
        by_target = csr_array(taken.T)
        blocks = []
        for start in range(0, taken_rows, size := max(1, CELLS // read_rows)):
            shared = csr_array(by_target[start : start + size] @ read)
            shared.sum_duplicates()
            both = shared.data
            norms = source_norms[shared.indices] * np.repeat(target_norms[start : start + size], np.diff(shared.indptr))
            shared.data = (both / norms * both / (both + shrinkage)).astype(np.float32)
            blocks.append(strongest(shared, count=neighbours))
        similarities = csr_array(vstack(blocks, format="csr"))
        return cls(similarities, popularity, num_sources=num_sources)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, W) of the target items for B source histories."""
        bags = count_matrix(histories, num_items=self.num_sources).astype(np.float32)
        scores = (bags @ self.similarities.T).toarray()
        return np.where(scores > 0, scores, self._backoff)
