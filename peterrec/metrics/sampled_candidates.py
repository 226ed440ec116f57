"""Hit rates among sampled negatives: what older papers report, and no measure of a recommender.

A ranking among a hundred sampled items says how a model does in the middle of the catalogue, not at its top, and can
order two models the other way round (Krichene and Rendle, KDD 2020). It is here to be set beside published figures.
"""

import numpy as np
from numpy.typing import NDArray

from peterrec.metrics.ranking import Ranks

Floats = NDArray[np.float64]


def sampled_hit_rate(ranks: Ranks, *, k: int = 10, negatives: int = 100) -> Floats:
    """The probability (N,) that a target is among the `k` best of itself and `negatives` other candidates.

    The negatives are drawn uniformly without replacement, all others where there are no more. This is the exact
    expectation over all draws, from the full ranking: no draw is made. Ties count by their expectation.
    """
    assert k > 0
    assert negatives > 0
    above, ties, candidates = (part.cpu().numpy() for part in (ranks.greater, ranks.ties, ranks.candidates))
    found = np.empty(len(above), dtype=np.float64)
    for count in np.unique(candidates):
        rows = np.flatnonzero(candidates == count)
        others, drawn = int(count) - 1, min(negatives, int(count) - 1)
        places, of_row = np.unique(np.stack([above[rows], ties[rows]]), axis=1, return_inverse=True)
        first, last = places[0], places[0] + places[1]
        if (places[1] == 0).all():
            chance = _within(first, others=others, drawn=drawn, k=k)
        else:  # a target stands on each of the places that it may take equally often
            low = int(first.min())
            each = _within(np.arange(low, int(last.max()) + 1), others=others, drawn=drawn, k=k)
            sums = np.concatenate([[0.0], np.cumsum(each)])
            chance = (sums[last - low + 1] - sums[first - low]) / (places[1] + 1)
        found[rows] = chance[of_row.reshape(-1)]
    return found


def _within(better: NDArray[np.int64], *, others: int, drawn: int, k: int) -> Floats:
    """How likely fewer than `k` of `drawn` from `others` are among the `better` (n,) ones."""
    from scipy.stats import hypergeom

    if drawn == 0:
        return np.ones(len(better))
    return np.clip(hypergeom.cdf(k - 1, others, better, drawn), 0.0, 1.0)
