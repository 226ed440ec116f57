"""The losses of ranking against sums over plain loops, and their negatives."""

import numpy as np
import pytest
import torch

from peterrec.objectives.negatives import NegativeSampler
from peterrec.objectives.ranking import bce_loss, bpr_loss, pair_scores, sampled_loss, softmax_loss
from peterrec.objectives.user_negatives import UserNegatives

W, B, D = 12, 5, 4


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_softmax_is_cross_entropy_with_a_bias_over_the_items_alone():
    queries, table, bias = (drawn(*shape, seed=n).requires_grad_() for n, shape in enumerate(((B, D), (W, D), (W,))))
    targets = torch.tensor([3, 11, 7, 7, 4])
    loss = softmax_loss(queries, table, targets, bias=bias)
    logits = queries.detach().numpy() @ table.detach().numpy()[3:].T + bias.detach().numpy()[3:]
    wanted = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(B), targets.numpy() - 3])
    assert loss.item() == pytest.approx(wanted)
    loss.backward()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    shares[np.arange(B), targets.numpy() - 3] -= 1
    assert bias.grad is not None
    np.testing.assert_allclose(bias.grad[3:], shares.mean(axis=0), atol=1e-12)
    np.testing.assert_array_equal(bias.grad[:3], 0)
    assert table.grad is not None
    np.testing.assert_allclose(table.grad[3:], shares.T @ queries.detach().numpy() / B, atol=1e-12)


def test_a_bias_keeps_its_precision_under_autocast():
    """Products in bf16 alone would round a bias of 10 to steps of 1/16."""
    queries, table = torch.zeros(2, D), torch.zeros(W, D)
    bias = torch.linspace(9.9, 10.1, W, requires_grad=True)
    targets = torch.tensor([3, 8])
    exact = softmax_loss(queries, table, targets, bias=bias)
    (wanted,) = torch.autograd.grad(exact, bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = softmax_loss(queries, table, targets, bias=bias)
    (found,) = torch.autograd.grad(loss, bias)
    assert loss.item() == pytest.approx(exact.item(), abs=1e-3)
    torch.testing.assert_close(found, wanted, atol=5e-3, rtol=0)
    assert found.abs().max() > 0.1


@pytest.mark.parametrize("biased", [False, True])
def test_sampled_softmax_approaches_the_exact_one(biased):
    """With log-Q its expectation over draws goes to the exact loss as the negatives grow."""
    rows = 203
    rng = np.random.default_rng(0)
    counts = (1000 / np.arange(1, rows - 2)).astype(np.int64)
    probabilities = counts**0.75 / (counts**0.75).sum()
    queries, table = drawn(40, D), drawn(rows, D, seed=1)
    bias = drawn(rows, seed=2) if biased else None
    targets = torch.from_numpy(rng.integers(3, rows, 40))

    def mean_loss(number, draws):
        losses = []
        sampler = NegativeSampler(probabilities, number=number)
        for _ in range(draws):
            negatives = sampler.draw(rng)
            loss = sampled_loss(
                queries,
                target_vectors=table[targets],
                negative_vectors=table[negatives.rows],
                targets=targets,
                negatives=negatives,
                target_log_counts=negatives.log_counts_of(targets.numpy()),
                target_bias=None if bias is None else bias[targets],
                negative_bias=None if bias is None else bias[negatives.rows],
            )
            losses.append(loss.item())
        return np.mean(losses)

    # its normaliser has the corrected target in it, so that only the differences between queries must agree at first
    exact = softmax_loss(queries, table, targets, bias=bias).item()
    assert abs(mean_loss(190, 20) - exact) < 0.15
    assert abs(mean_loss(190, 20) - exact) < abs(mean_loss(10, 200) - exact)


def test_bpr_and_bce_are_their_sums():
    positive, negative = drawn(B), drawn(B, 3, seed=1)
    real = torch.tensor([True, True, False, True, True])
    bpr = bce = 0.0
    for n in range(B):
        s = positive[n].item()
        others = negative[n].tolist() if real[n] else []
        bpr += np.mean([-np.log(1 / (1 + np.exp(-(s - other)))) for other in others]) if others else 0.0
        bce += -np.log(1 / (1 + np.exp(-s))) - sum(np.log(1 - 1 / (1 + np.exp(-other))) for other in others)
    assert bpr_loss(positive, negative, real=real).item() == pytest.approx(bpr / B)
    assert bce_loss(positive, negative, real=real).item() == pytest.approx(bce / B)


def test_pair_scores_are_products_in_float32_at_least():
    queries, vectors, bias = drawn(B, D).float(), drawn(B, 3, D, seed=1).float(), drawn(B, 3, seed=2).float()
    wanted = np.einsum("bkd,bd->bk", vectors.numpy(), queries.numpy()) + bias.numpy()
    np.testing.assert_allclose(pair_scores(queries, vectors, bias), wanted, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pair_scores(queries, vectors, bias).dtype == torch.float32


def test_negatives_are_never_what_the_user_has_and_all_else_alike():
    """A user with all items but one, one with none, one with all, one with some (twice)."""
    items = 9
    owned = {0: [n for n in range(items) if n != 4], 1: [], 2: list(range(items)), 3: [1, 7, 7, 0]}
    owner = np.array([user for user, mine in owned.items() for _ in mine])
    item = np.array([n + 3 for mine in owned.values() for n in mine])
    order = np.random.default_rng(1).permutation(len(owner))
    negatives = UserNegatives(owner[order], item[order], users=4, rows=items + 3)
    assert negatives.free(np.arange(4)).tolist() == [1, 9, 0, 6]
    users = np.array([3, 0, 1, 2, 0])
    found, real = negatives.draw(np.random.default_rng(0), users, number=6000)
    assert real.tolist() == [True, True, True, False, True]
    assert found.min() >= 3
    assert found.max() < items + 3
    for user, row in zip(users, found, strict=True):
        if user == 2:
            continue
        free = sorted(set(range(items)) - set(owned[int(user)]))
        values, counts = np.unique(row - 3, return_counts=True)
        assert values.tolist() == free
        assert np.all(np.abs(counts / len(row) - 1 / len(free)) < 0.03)
