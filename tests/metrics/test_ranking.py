"""Full ranking against brute force: every order of the ties, every candidate by hand."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peterrec.errors import DataError, DivergedError, SettingsError
from peterrec.metrics.ranking import Ranks, count_better, rank_scores, rank_targets, ranking_metrics

torch.set_num_threads(1)


def enumerated(scores: list[float], target: int, excluded: set[int], k: int) -> tuple[float, float, float]:
    """HR, NDCG, MRR at k averaged over all orders of the candidates that agree with the scores."""
    candidates = [c for c in range(len(scores)) if c == target or c not in excluded]
    found = []
    for order in permutations(candidates):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            rank = order.index(target) + 1
            hit = rank <= k
            found.append((hit, hit / np.log2(rank + 1), hit / rank))
    return tuple(np.mean(found, axis=0))


@settings(max_examples=80, deadline=None)
@given(
    scores=st.lists(st.integers(0, 2), min_size=1, max_size=6),
    data=st.data(),
    k=st.integers(1, 9),
)
def test_expectation_is_the_mean_over_all_orders_of_ties(scores, data, k):
    width = len(scores)
    target = data.draw(st.integers(0, width - 1))
    columns = data.draw(st.lists(st.integers(0, width - 1), max_size=4))
    excluded = (torch.zeros(len(columns), dtype=torch.long), torch.tensor(columns, dtype=torch.long))
    greater, ties = count_better(torch.tensor([scores]).float(), torch.tensor([target]), excluded=excluded)
    metrics = ranking_metrics(Ranks(greater, ties, torch.tensor([width])), ks=(k,))
    expected = enumerated([float(s) for s in scores], target, set(columns), k)
    assert [metrics[f"{name}@{k}"][0] for name in ("hr", "ndcg", "mrr")] == pytest.approx(expected)
    whole = enumerated([float(s) for s in scores], target, set(columns), width)
    assert metrics["mrr"][0] == pytest.approx(whole[2])


def test_all_tied_scores_what_chance_scores():
    width = 50
    ranks = rank_scores(lambda users: torch.zeros(users.stop - users.start, width), torch.arange(7, 17), num_rows=width)
    assert ranks.ties.tolist() == [46] * 10  # 47 items, special rows are none
    assert ranks.candidates.tolist() == [47] * 10
    assert ranking_metrics(ranks, ks=(10,))["hr@10"] == pytest.approx(np.full(10, 10 / 47))


def test_a_single_candidate_is_always_first():
    ranks = rank_targets(torch.randn(4, 3), torch.randn(4, 3), torch.full((4,), 3))
    metrics = ranking_metrics(ranks)
    assert list(metrics) == [f"{m}@{k}" for k in (5, 10, 20) for m in ("hr", "ndcg", "mrr")] + ["mrr"]
    assert all(np.array_equal(values, np.ones(4)) for values in metrics.values())


def world(seed: int, users: int = 37, rows: int = 23):
    """Whole numbers, so that sums are exact and ties abound."""
    random = np.random.default_rng(seed)
    hidden = torch.from_numpy(random.integers(-2, 3, (users, 4))).float()
    table = torch.from_numpy(random.integers(-2, 3, (rows, 4))).float()
    bias = torch.from_numpy(random.integers(-2, 3, rows)).float()
    lengths = random.integers(0, 12, users)
    flat = random.integers(0, rows, lengths.sum()).astype(np.int32)  # special rows and repeats too
    targets = torch.from_numpy(random.integers(3, rows, users))
    return hidden, table, bias, (flat, lengths), targets


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_history", [False, True])
def test_ranks_equal_a_loop_over_users_and_items(seed, with_history):
    hidden, table, bias, histories, targets = world(seed)
    ranks = rank_targets(hidden, table, targets, bias=bias, histories=histories if with_history else None, chunk=5)
    ends = np.cumsum(histories[1])
    for user in range(len(hidden)):
        scores = (hidden[user] @ table.T + bias).tolist()
        seen = set(histories[0][ends[user] - histories[1][user] : ends[user]].tolist()) if with_history else set()
        own = int(targets[user])
        others = [row for row in range(3, len(table)) if row != own and row not in seen]
        assert ranks.greater[user] == sum(scores[row] > scores[own] for row in others)
        assert ranks.ties[user] == sum(scores[row] == scores[own] for row in others)
        assert ranks.candidates[user] == len(others) + 1


@pytest.mark.parametrize("chunk", [1, 2, 36, 37, 1000])
def test_chunks_do_not_matter(chunk):
    hidden, table, bias, histories, targets = world(9)
    expected = rank_targets(hidden, table, targets, bias=bias, histories=histories)
    found = rank_targets(hidden, table, targets, bias=bias, histories=histories, chunk=chunk)
    for name in ("greater", "ties", "candidates"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_a_target_in_the_history_stays_a_candidate():
    scores = torch.tensor([[3.0, 2.0, 1.0]])
    excluded = (torch.tensor([0, 0, 0]), torch.tensor([1, 0, 0]))
    greater, ties = count_better(scores, torch.tensor([1]), excluded=excluded)
    assert (greater.item(), ties.item()) == (0, 0)
    assert scores.tolist() == [[3.0, 2.0, 1.0]]  # the caller's scores are left as they were


def test_half_precision_is_scored_in_single():
    hidden, table = torch.tensor([[1.0, 1.0]]).bfloat16(), torch.zeros(5, 2).bfloat16()
    table[3], table[4] = torch.tensor([256.0, 1.0]), torch.tensor([256.0, 0.0])  # 257 is 256 in bfloat16
    ranks = rank_targets(hidden, table, torch.tensor([4]))
    assert (ranks.greater.item(), ranks.ties.item()) == (1, 0)


def test_no_gradient_is_kept():
    hidden, table, _, histories, targets = world(1)
    assert torch.equal(
        rank_targets(hidden.requires_grad_(), table.requires_grad_(), targets, histories=histories).greater,
        rank_targets(hidden.detach(), table.detach(), targets, histories=histories).greater,
    )


@pytest.mark.parametrize("place", ["target", "other"])
def test_nan_is_divergence(place):
    hidden, table, *_ = world(2)
    targets = torch.full((len(hidden),), 5)
    table[5 if place == "target" else 8, 0] = float("nan")
    with pytest.raises(DivergedError, match="test row 0"):
        rank_targets(hidden, table, targets)


@pytest.mark.parametrize("target", [2, 23, -1])
def test_a_target_that_is_no_item_is_named(target):
    hidden, table, _, _, targets = world(2)
    targets[4] = target
    with pytest.raises(DataError, match=rf"test row 4 is vocabulary row {target}, .* rows 3 to 22"):
        rank_targets(hidden, table, targets)


def test_no_users_no_ranks_and_batches_join():
    hidden, table, bias, _, targets = world(3)
    assert len(rank_targets(hidden[:0], table, targets[:0])) == 0
    whole = rank_targets(hidden, table, targets, bias=bias)
    parts = [rank_targets(hidden[s], table, targets[s], bias=bias) for s in (slice(0, 9), slice(9, None))]
    assert torch.equal(Ranks.joined(parts).ties, whole.ties)


def test_cutoffs_are_positive():
    with pytest.raises(SettingsError, match="at least 1, not 0"):
        ranking_metrics(Ranks(*torch.zeros(3, 1, dtype=torch.long)), ks=(0,))
