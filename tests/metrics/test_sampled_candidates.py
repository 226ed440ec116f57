"""Sampled negatives: every draw by hand, and many draws by chance."""

from itertools import combinations

import numpy as np
import pytest
import torch

from peterrec.metrics.ranking import Ranks
from peterrec.metrics.sampled_candidates import sampled_hit_rate


def ranks(*rows):
    return Ranks(*(torch.tensor(column) for column in zip(*rows, strict=True)))


def by_every_draw(above: int, ties: int, candidates: int, *, k: int, negatives: int) -> float:
    others = [1] * above + [0] * ties + [-1] * (candidates - 1 - above - ties)
    found = []
    for drawn in combinations(others, min(negatives, len(others))):
        better, equal = drawn.count(1), drawn.count(0)
        found.append(np.mean([better + place < k for place in range(equal + 1)]))
    return float(np.mean(found))


def test_it_is_the_mean_over_every_draw_and_order_of_ties():
    rows = [(a, t, c) for c in (1, 2, 6, 9) for a in range(c) for t in range(c - a)]
    for k, negatives in ((1, 3), (2, 4), (2, 8), (3, 20)):
        expected = [by_every_draw(*row, k=k, negatives=negatives) for row in rows]
        assert sampled_hit_rate(ranks(*rows), k=k, negatives=negatives) == pytest.approx(expected, abs=1e-12)
        alone = [sampled_hit_rate(ranks(row), k=k, negatives=negatives)[0] for row in rows]  # none tied beside it
        assert alone == pytest.approx(expected, abs=1e-12)


def test_draws_by_chance_agree():
    random = np.random.default_rng(0)
    draws = np.array([np.sum(random.choice(2000, 100, replace=False) < 150) < 10 for _ in range(2000)])
    assert sampled_hit_rate(ranks((150, 0, 2001)))[0] == pytest.approx(draws.mean(), abs=4 * draws.std() / 2000**0.5)


def test_a_constant_scorer_scores_what_chance_scores():
    assert sampled_hit_rate(ranks((0, 5000, 5001), (0, 0, 1)))[:1] == pytest.approx(10 / 101)
