"""One view predicts the items of the other: against numpy, exact and sampled, with its own table and a tied one."""

import numpy as np
import pytest
import torch

from peterrec.data.views import Views
from peterrec.encoders import NextItNet, NextItNetConfig
from peterrec.objectives.bag import BagBatch, BagOutput
from peterrec.objectives.negatives import NegativeSampler, SharedNegatives, log_uniform

ITEMS, CHANNELS = 40, 8


def encoder(rows=3 + ITEMS, **changes) -> NextItNet:
    torch.manual_seed(0)
    shape = {"vocab_size": rows, "hidden_size": CHANNELS, "dilations": (1, 2), "initializer_range": 0.5}
    return NextItNet(NextItNetConfig(**shape | changes)).double()


def output(base, *, tied=False, sparse=False, counts=None) -> BagOutput:
    torch.manual_seed(1)
    counts = np.arange(base.config.vocab_size - 3) if counts is None else counts
    return BagOutput(base, counts=counts, tied=tied, sparse=sparse).double()


def views(users=5, *, seed=0, items=ITEMS) -> Views:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 7, 2 * users)
    return Views(rng.integers(3, 3 + items, counts.sum()).astype(np.int32), counts)


def targets_of(drawn: Views) -> list[list[int]]:
    """For each view, the items of its user's other one, taken apart by hand."""
    ends = np.cumsum(drawn.counts)
    each = [drawn.flat[stop - count : stop].tolist() for stop, count in zip(ends, drawn.counts, strict=True)]
    return each[drawn.users :] + each[: drawn.users]


def scores_by_hand(base, made, vectors):
    """(N, V) float64 scores of all rows."""
    x = vectors.detach().numpy()
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + base.config.layer_norm_eps)
    table = base.embed_tokens.weight if made.table is None else made.table.weight
    return x @ table.detach().numpy().T + made.bias.weight.detach().numpy()[:, 0]


@pytest.mark.parametrize("tied", [False, True])
def test_the_exact_formula(tied):
    base, drawn = encoder(), views()
    made = output(base, tied=tied)
    vectors = torch.randn(10, CHANNELS, dtype=torch.float64, requires_grad=True)
    losses = []
    for row, wanted in zip(scores_by_hand(base, made, vectors)[:, 3:], targets_of(drawn), strict=True):
        logs = row - np.log(np.exp(row).sum())
        losses.append(-np.mean([logs[item - 3] for item in wanted]))
    found = made.loss(vectors, BagBatch.of(drawn), encoder=base)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-9)
    found.backward()
    assert vectors.grad.abs().sum() > 0
    assert (base.embed_tokens.weight.grad is not None) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_the_sampled_formula(tied):
    base, drawn = encoder(), views()
    made = output(base, tied=tied)
    sampler = NegativeSampler(log_uniform(ITEMS), number=12)
    sets = tuple(sampler.draw(np.random.default_rng(n)) for n in range(2))
    of_user = np.array([1, 0, 0, 1, 0])
    vectors = torch.randn(10, CHANNELS, dtype=torch.float64)
    scores, losses = scores_by_hand(base, made, vectors), []
    for row, wanted in enumerate(targets_of(drawn)):
        negatives = sets[of_user[row % 5]]
        own = []
        for item in wanted:
            rivals = [
                np.exp(scores[row, other] - log_count)
                for other, log_count in zip(negatives.rows.tolist(), negatives.log_counts.tolist(), strict=True)
                if other != item
            ]
            target = scores[row, item] - negatives.log_counts_of(np.array([item])).item()
            own.append(np.log(np.exp(target) + np.sum(rivals)) - target)
        losses.append(np.mean(own))
    batch = BagBatch.of(drawn).among(SharedNegatives(sets, np.tile(of_user, 2)))
    assert made.loss(vectors, batch, encoder=base).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_it_starts_at_the_popularity_of_the_items():
    counts = np.random.default_rng(0).integers(0, 100, ITEMS)
    base = encoder()
    made = output(base, counts=counts)
    with torch.no_grad():
        made.table.weight.zero_()
    scores = scores_by_hand(base, made, torch.randn(1, CHANNELS, dtype=torch.float64))[0, 3:]
    found = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found, (counts + 1) / (counts + 1).sum(), rtol=1e-6)  # drawn up in float32


@pytest.mark.parametrize("tied", [False, True])
def test_a_large_catalogue_gets_no_dense_gradient(tied):
    rows = 100_003
    base, drawn = encoder(rows, hidden_size=4), views(items=rows - 3)
    base.sparse_rows = True
    made = output(base, tied=tied, sparse=True)
    negatives = NegativeSampler(log_uniform(rows - 3), number=20).draw(np.random.default_rng(0))
    batch = BagBatch.of(drawn).among(SharedNegatives((negatives,), np.zeros(10, dtype=np.int64)))
    made.loss(torch.randn(10, 4, dtype=torch.float64, requires_grad=True), batch, encoder=base).backward()
    table = base.embed_tokens.weight if tied else made.table.weight
    wanted = {*drawn.flat.tolist(), *negatives.rows.tolist()}
    for gradient in (table.grad, made.bias.weight.grad):
        assert gradient.is_sparse
        assert set(gradient.coalesce().indices()[0].tolist()) == wanted
