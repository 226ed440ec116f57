"""Vectors that find each other, counted by hand."""

import numpy as np
import pytest
import torch

from peterrec.metrics.matching import matching_recall


def by_hand(first, second, k):
    """Shares of users by sorting, with no two scores alike."""
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    hits = 0
    for one, other in ((first, second), (second, first)):
        for user, row in enumerate(one @ other.T):
            hits += user in np.argsort(-row)[:k]
    return hits / (2 * len(first))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_it_is_the_share_of_users_among_the_nearest(k):
    rng = np.random.default_rng(0)
    first = rng.normal(size=(1500, 4))  # more than are ranked at once
    second = first + rng.normal(size=first.shape) * rng.uniform(0.01, 1, size=(1500, 1))
    found = matching_recall(torch.from_numpy(first), torch.from_numpy(second) * 3, k=k)
    assert found == pytest.approx(by_hand(first, second, k), abs=1e-9)
    assert 0.05 < found < 0.95


def test_vectors_that_are_all_alike_match_by_chance():
    assert matching_recall(torch.ones(40, 3), torch.ones(40, 3), k=10) == pytest.approx(0.25)
    assert matching_recall(torch.zeros(40, 3), torch.zeros(40, 3), k=10) == pytest.approx(0.25)
    assert matching_recall(torch.eye(40), torch.eye(40), k=1) == 1
    assert matching_recall(torch.eye(6), torch.eye(6).roll(1, 0), k=1) == 0
