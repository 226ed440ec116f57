"""NDCG of lists against all orders of tied rows, one by one."""

from itertools import pairwise, permutations
from math import log2

import numpy as np
import pytest

from peterrec.metrics.list_ndcg import list_ndcgs


def brute(labels, scores, k):
    """The mean over all orders that the scores allow of DCG@k over the best DCG@k."""
    rows = range(len(labels))
    allowed = [o for o in permutations(rows) if all(scores[a] >= scores[b] for a, b in pairwise(o))]

    def dcg(order):
        return sum(labels[row] / log2(place + 2) for place, row in enumerate(order[:k]))

    return np.mean([dcg(order) for order in allowed]) / dcg(sorted(rows, key=lambda row: -labels[row]))


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_it_is_the_mean_over_all_orders_that_ties_allow(k):
    rng = np.random.default_rng(k)
    lists = rng.permutation(np.repeat(np.arange(30), 5))
    labels, scores = rng.integers(0, 2, 150), rng.integers(0, 3, 150).astype(float)
    scores[rng.random(150) < 0.1] = -np.inf
    found = list_ndcgs(labels, scores, lists, k=k)
    wanted = {g: brute(labels[lists == g], scores[lists == g], k) for g in range(30) if labels[lists == g].any()}
    assert len(found.ndcg) == len(wanted)
    for row, value in zip(found.rows, found.ndcg, strict=True):
        assert value == pytest.approx(wanted[lists[row]])


def test_lists_without_a_positive_row_have_none():
    assert len(list_ndcgs([0, 0], [1.0, 2.0], [3, 3], k=5).ndcg) == 0
    assert len(list_ndcgs([], [], [], k=5).ndcg) == 0
    assert list_ndcgs([1, 0, 1, 0], [3.0, 2.0, 1.0, 0.0], [0, 0, 1, 1], k=5).ndcg.tolist() == [1.0, 1.0]
