"""Pairs and lists against loops over each group."""

import numpy as np
import pytest
import torch
from torch.func import grad

from peterrec.objectives.group_losses import bpr_sum, denominator, lists_of, listwise_sum, pairs_of, two_classes

ROWS = 80


def draw(seed=0, weights=True):
    rng = np.random.default_rng(seed)
    label = (rng.random(ROWS) < 0.4).astype(np.float32)
    weight = rng.choice([0.0, 0.5, 1.0, 2.0], ROWS).astype(np.float32) if weights else np.ones(ROWS, np.float32)
    groups = rng.choice([-7, -1, 0, 3, 4, 9, 12, 100], ROWS).astype(np.int64)
    label[groups == 9] = 1  # one class
    label[groups == 100] = 0
    return rng.normal(size=ROWS) * 3, label, weight, groups


def bpr(scores, label, weight, groups):
    pairs = scores.new_tensor(pairs_of(label, weight, groups).weight, dtype=scores.dtype)
    found = pairs_of(label, weight, groups)
    return bpr_sum(scores, torch.from_numpy(found.positive), torch.from_numpy(found.negative), pairs)


def listwise(scores, label, weight, groups):
    found = lists_of(label, weight, groups)
    told = [torch.from_numpy(each) for each in found[:3]]
    return listwise_sum(scores, told[0], told[1], told[2], number=found.number)


def bpr_loop(scores, label, weight, groups):
    total, pairs = 0.0, 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if groups[i] == groups[j] and label[i] == 1 and label[j] == 0:
                total += weight[i] * weight[j] * np.log1p(np.exp(scores[j] - scores[i]))
                pairs += weight[i] * weight[j]
    return total, pairs


def listwise_loop(scores, label, weight, groups):
    total, lists = 0.0, 0
    for group in np.unique(groups):
        own = (groups == group) & (weight > 0)
        if len(np.unique(label[own])) < 2:
            continue
        target = weight[own] * np.exp(label[own])
        chance = np.exp(scores[own]) / (weight[own] * np.exp(scores[own])).sum()
        total -= (target / target.sum() * np.log(chance)).sum()
        lists += 1
    return total, lists


LOSSES = {"bpr": (bpr, bpr_loop), "listwise": (listwise, listwise_loop)}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sums_and_denominators_are_those_of_a_loop_over_groups(kind, seed):
    scores, *rows = draw(seed)
    loss, loop = LOSSES[kind]
    wanted, count = loop(scores, *rows)
    assert float(loss(torch.from_numpy(scores), *rows)) == pytest.approx(wanted, rel=1e-5)
    assert denominator(kind, *rows) == pytest.approx(count)


@pytest.mark.parametrize("kind", LOSSES)
def test_the_order_of_the_rows_and_a_shift_of_a_group_change_nothing(kind):
    scores, *rows = draw(3)
    loss = LOSSES[kind][0]
    before = float(loss(torch.from_numpy(scores), *rows))
    order = np.random.default_rng(1).permutation(ROWS)
    assert float(loss(torch.from_numpy(scores[order]), *(each[order] for each in rows))) == pytest.approx(before)
    moved = torch.from_numpy(scores + 5.0 * rows[2])  # each group by its own constant
    assert float(loss(moved, *rows)) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_groups_of_one_class_and_rows_without_a_weight_add_nothing(kind):
    scores, label, weight, groups = draw(4)
    loss = LOSSES[kind][0]
    slope = grad(lambda s: loss(s, label, weight, groups))(torch.from_numpy(scores)).numpy()
    silent = (groups == 9) | (groups == 100) | (weight == 0)
    assert not slope[silent].any()
    told = two_classes(label, weight, groups)
    assert not told[silent].any()
    assert (slope[told] != 0).all()
    alone = groups == 9
    assert float(loss(torch.from_numpy(scores[alone]), label[alone], weight[alone], groups[alone])) == 0.0
    assert denominator(kind, label[alone], weight[alone], groups[alone]) == 0.0


@pytest.mark.parametrize("kind", LOSSES)
def test_a_row_of_weight_two_is_two_rows(kind):
    scores, label, _, groups = draw(5, weights=False)
    weight = np.where(np.arange(ROWS) % 3 == 0, 2, 1).astype(np.float32)
    loss = LOSSES[kind][0]
    twice = np.repeat(np.arange(ROWS), weight.astype(int))
    ones = np.ones(len(twice), np.float32)
    repeated = loss(torch.from_numpy(scores[twice]), label[twice], ones, groups[twice])
    assert float(loss(torch.from_numpy(scores), label, weight, groups)) == pytest.approx(float(repeated), rel=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_groups_apart_sum_to_groups_together(kind):
    scores, *rows = draw(6)
    loss = LOSSES[kind][0]
    parts = [np.flatnonzero(rows[2] <= 0), np.flatnonzero(rows[2] > 0)]
    apart = sum(float(loss(torch.from_numpy(scores[part]), *(each[part] for each in rows))) for part in parts)
    assert apart == pytest.approx(float(loss(torch.from_numpy(scores), *rows)), rel=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_large_scores_and_bf16_stay_finite(kind):
    scores, *rows = draw(7)
    loss = LOSSES[kind][0]
    large = torch.from_numpy(scores * 1e3).float().requires_grad_()
    found = loss(large, *rows)
    found.backward()
    assert torch.isfinite(found)
    assert torch.isfinite(large.grad).all()
    assert loss(large.detach().bfloat16(), *rows).dtype == torch.float32
