"""Several targets a state, exactly: against plain torch, which knows the whole matrix."""

import numpy as np
import pytest
import torch

from peterrec.data.vocabulary import PAD
from peterrec.objectives.multinomial_softmax import multinomial_softmax_loss
from peterrec.objectives.softmax import exact_softmax_loss

ROWS, CHANNELS, ITEMS = 11, 6, 23


def problem(seed=0, *, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    states = torch.from_numpy(rng.normal(size=(ROWS, CHANNELS))).to(dtype).requires_grad_()
    table = torch.from_numpy(rng.normal(size=(ITEMS, CHANNELS))).to(dtype).requires_grad_()
    bias = torch.from_numpy(rng.normal(size=ITEMS)).to(dtype).requires_grad_()
    counts = rng.integers(0, 6, ROWS)
    counts[4] = 0
    targets = torch.from_numpy(rng.integers(3, ITEMS, counts.sum()))
    return states, table, bias, targets, counts


def plain(states, table, bias, targets, counts):
    """By the definition: each state's log-probabilities, its targets' mean, the mean over states that have some."""
    logits = states @ table[3:].T
    if bias is not None:
        logits = logits + bias[3:]
    logs = torch.log_softmax(logits, dim=1)
    losses, start = [], 0
    for state, count in enumerate(counts):
        own = [target - 3 for target in targets[start : start + count].tolist() if target >= 3]
        start += count
        if own:
            losses.append(-logs[state][own].mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("chunk", [None, 1, 3, 4, 100])
@pytest.mark.parametrize("with_bias", [True, False])
def test_loss_and_gradients_are_those_of_the_definition(chunk, with_bias):
    states, table, bias, targets, counts = problem()
    targets[[2, 5]] = PAD  # no targets
    targets[8] = targets[9]  # perhaps of one state: it counts twice
    given = bias if with_bias else None
    wanted = plain(states, table, given, targets, counts)
    inputs = [states, table, *([bias] if with_bias else [])]
    wanted_gradients = torch.autograd.grad(wanted * 3, inputs)
    found = multinomial_softmax_loss(states, table, targets=targets, counts=counts, bias=given, chunk=chunk)
    gradients = torch.autograd.grad(found * 3, inputs)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-12)
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_an_item_that_comes_twice_counts_twice():
    states, table, bias, _, _ = problem()
    twice = torch.tensor([7, 7, 9])
    found = multinomial_softmax_loss(states[:1], table, targets=twice, counts=np.array([3]), bias=bias)
    assert found.item() == pytest.approx(plain(states[:1], table, bias, twice, [3]).item())
    once = multinomial_softmax_loss(states[:1], table, targets=twice[1:], counts=np.array([2]), bias=bias)
    assert found.item() != pytest.approx(once.item())


def test_one_target_a_state_is_the_ordinary_softmax():
    states, table, _, _, _ = problem()
    targets = torch.from_numpy(np.random.default_rng(3).integers(3, ITEMS, ROWS))
    targets[5] = PAD
    found = multinomial_softmax_loss(states, table, targets=targets, counts=np.ones(ROWS, dtype=np.int64))
    assert found.item() == pytest.approx(exact_softmax_loss(states, table, targets).item(), rel=1e-12)


def test_no_targets_cost_nothing():
    states, table, bias, _, _ = problem()
    none = torch.zeros(0, dtype=torch.int64)
    loss = multinomial_softmax_loss(states, table, targets=none, counts=np.zeros(ROWS, dtype=np.int64), bias=bias)
    assert loss.item() == 0
    for gradient in torch.autograd.grad(loss, [states, table, bias]):
        assert not gradient.any()


def test_bf16_products_and_float32_sums():
    states, table, bias, targets, counts = problem(dtype=torch.float32)
    wanted = multinomial_softmax_loss(states, table, targets=targets, counts=counts, bias=bias)
    exact = torch.autograd.grad(wanted, [states, table, bias])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = multinomial_softmax_loss(states, table, targets=targets, counts=counts, bias=bias)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=2e-2)
    assert found.item() != wanted.item()
    for ours, theirs in zip(torch.autograd.grad(found, [states, table, bias]), exact, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=5e-3)


def test_without_gradients_it_keeps_none():
    states, table, bias, targets, counts = problem()
    with torch.no_grad():
        found = multinomial_softmax_loss(states, table, targets=targets, counts=counts, bias=bias)
    assert not found.requires_grad
    assert found.item() == pytest.approx(plain(states, table, bias, targets, counts).item())
