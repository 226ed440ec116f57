"""First-order Markov chain: what followed the last item."""

from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.item_matrix import Histories, last_items
from peterrec.baselines.popularity import PopularityRanker
from peterrec.data.vocabulary import FIRST_ITEM

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class MarkovRanker:
    """Scores an item by how often it directly followed the user's last one in the training histories.

    Items that followed equally often (most never did) are ordered by popularity, and so are all for an empty
    history.
    """

    def __init__(self, transitions: "csr_array", popularity: PopularityRanker) -> None:
        self.transitions: csr_array = transitions
        # Less than one transition, so that it only orders ties.
        self._backoff: NDArray[np.float32] = popularity.counts / (popularity.counts.max(initial=0) + 1)

    @classmethod
    def fit(cls, histories: Histories, *, num_items: int) -> Self:
        """Count the pairs of neighbours in the training histories."""
        from scipy.sparse import csr_array

        popularity = PopularityRanker.fit(histories, num_items=num_items)
        flat, lengths = last_items(histories, count=len(histories[0]))  # without special rows
        owners = np.repeat(np.arange(len(lengths)), lengths)
        pairs = owners[1:] == owners[:-1]
        cells = (np.ones(int(pairs.sum()), dtype=np.float32), (flat[:-1][pairs], flat[1:][pairs]))
        size = FIRST_ITEM + num_items
        return cls(csr_array(cells, shape=(size, size)), popularity)

    def scores(self, histories: Histories) -> NDArray[np.float32]:
        """The scores (B, V) for B histories."""
        flat, lengths = last_items(histories, count=1)
        scores = np.tile(self._backoff, (len(lengths), 1))
        scores[lengths > 0] += self.transitions[flat].toarray()
        return scores
