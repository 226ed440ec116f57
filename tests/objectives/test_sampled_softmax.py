"""The sampled softmax against plain numpy, against autograd, and against the exact one that it estimates."""

import numpy as np
import pytest
import torch

from peterrec.objectives.negatives import NegativeSampler, by_popularity
from peterrec.objectives.sampled_softmax import sampled_softmax_loss
from peterrec.objectives.softmax import exact_softmax_loss

NEGATIVES = torch.tensor([3, 5, 6, 9, 12, 13])


def data(rows=11, channels=5, vocabulary=15, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, channels, generator=generator, dtype=dtype, requires_grad=True)
    table = torch.randn(vocabulary, channels, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(3, vocabulary, (rows,), generator=generator)
    log_counts = torch.rand(vocabulary, generator=generator, dtype=dtype).log()
    return hidden, table, targets, log_counts


def sampled(hidden, table, targets, log_counts, negatives=NEGATIVES, **options):
    """`log_counts` are those of all rows."""
    return sampled_softmax_loss(
        hidden,
        target_rows=table[targets],
        negative_rows=table[negatives],
        targets=targets,
        negatives=negatives,
        log_counts=log_counts[negatives],
        target_log_counts=log_counts[targets],
        **options,
    )


def by_definition(hidden, table, targets, log_counts):
    """Row by row, in plain numpy; and how many negatives were their row's own target."""
    hidden, table, log_counts = (t.detach().numpy() for t in (hidden, table, log_counts))
    losses, hits = [], 0
    for state, target in zip(hidden, targets.tolist(), strict=True):
        odds = {row: np.exp(state @ table[row]) / np.exp(log_counts[row]) for row in [*NEGATIVES.tolist(), target]}
        hits += len(odds) == len(NEGATIVES)
        losses.append(-np.log(odds[target] / sum(odds.values())))
    return np.mean(losses), hits


def test_the_loss_equals_its_definition():
    arguments = data()
    wanted, hits = by_definition(*arguments)
    assert 0 < hits < len(arguments[2])
    assert sampled(*arguments).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100, None])
def test_gradients_equal_autograd_in_chunks_of_any_size(chunk):
    hidden, table, targets, log_counts = data()
    loss = sampled(hidden, table, targets, log_counts, chunk=chunk)
    with torch.no_grad():
        assert torch.equal(loss, sampled(hidden, table, targets, log_counts, chunk=chunk))
    (2.5 * loss).backward()
    found = hidden.grad.clone(), table.grad.clone()
    hidden.grad = table.grad = None
    own = (hidden * table[targets]).sum(dim=1, keepdim=True) - log_counts[targets, None]
    rest = hidden @ table[NEGATIVES].T - log_counts[NEGATIVES]
    rest = rest.masked_fill(targets[:, None] == NEGATIVES, -torch.inf)
    (2.5 * (torch.logsumexp(torch.cat([own, rest], dim=1), dim=1) - own[:, 0]).mean()).backward()
    torch.testing.assert_close(found[0], hidden.grad, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(found[1], table.grad, atol=1e-12, rtol=1e-9)


def test_all_items_as_negatives_are_the_exact_softmax():
    hidden, table, targets, _ = data()
    every = torch.arange(3, 15)
    loss = sampled(hidden, table, targets, torch.zeros(15, dtype=torch.float64), every)
    loss.backward()
    found = hidden.grad.clone(), table.grad.clone()
    hidden.grad = table.grad = None
    exact = exact_softmax_loss(hidden, table, targets)
    exact.backward()
    torch.testing.assert_close(loss, exact)
    torch.testing.assert_close(found[0], hidden.grad)
    torch.testing.assert_close(found[1], table.grad)


def test_filled_up_negatives_and_targets_that_are_none_count_for_nothing():
    hidden, table, targets, log_counts = data()
    wanted = sampled(hidden, table, targets, log_counts)
    gradients = torch.autograd.grad(wanted, (hidden, table))
    more = torch.cat([hidden.detach(), torch.randn(3, 5, dtype=torch.float64)]).requires_grad_()
    log_counts[0] = torch.inf
    loss = sampled(
        more,
        table,
        torch.cat([targets, torch.ones(3, dtype=torch.long)]),
        log_counts,
        torch.cat([torch.zeros(2, dtype=torch.long), NEGATIVES]),
        chunk=4,
    )
    found = torch.autograd.grad(loss, (more, table))
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(found[0][:11], gradients[0])
    torch.testing.assert_close(found[1], gradients[1])
    assert not found[0][11:].any()
    assert not found[1][:3].any()


def test_a_row_whose_only_negative_is_its_target_has_nothing_to_learn():
    hidden, table, _, _ = data(rows=2)
    loss = sampled(hidden, table, torch.tensor([5, 5]), torch.zeros(15, dtype=torch.float64), torch.tensor([5]))
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()
    assert not table.grad.any()


def test_no_rows_give_zero():
    hidden, table, targets, log_counts = data()
    loss = sampled(hidden[:0], table, targets[:0], log_counts)
    loss.backward()
    assert loss.item() == 0


def test_large_logits_do_not_overflow():
    hidden, table, targets, log_counts = data(dtype=torch.float32)
    big = (hidden.detach() * 1e4).requires_grad_()
    loss = sampled(big, table, targets, log_counts)
    loss.backward()
    wanted = sampled(hidden.double() * 1e4, table.double(), targets, log_counts.double())
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    assert big.grad.isfinite().all()


def test_autocast_multiplies_in_bfloat16_and_stays_close():
    hidden, table, targets, log_counts = data(dtype=torch.float32)
    exact = sampled(hidden, table, targets, log_counts)
    wanted = torch.autograd.grad(exact, (hidden, table))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = sampled(hidden, table, targets, log_counts, chunk=4)
    found = torch.autograd.grad(low, (hidden, table))
    for gradient, other in zip(found, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert 0 < (gradient - other).norm() < 2e-2 * other.norm()
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(exact.item(), rel=2e-2)


def mean_gradient(number, *, corrected, times=400):
    """Of the table, over many draws; and the exact one."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(6, 3, generator=generator, dtype=torch.float64) / 2
    table = torch.randn(63, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([3, 4, 9, 20, 40, 62])
    sampler = NegativeSampler(by_popularity(1000 // np.arange(1, 61), power=1.0), number=number)
    total = torch.zeros_like(table)
    for n in range(times):
        drawn = sampler.draw(np.random.default_rng((number, n)))
        log_counts = drawn.log_counts_of(np.arange(63)) * corrected
        total += torch.autograd.grad(sampled(hidden, table, targets, log_counts, drawn.rows), table)[0]
    exact = torch.autograd.grad(exact_softmax_loss(hidden, table, targets), table)[0]
    return total / times, exact


def test_the_gradient_tends_to_the_exact_one_as_negatives_grow():
    errors = {}
    for corrected in (True, False):
        for number in (15, 45):
            found, exact = mean_gradient(number, corrected=corrected)
            errors[number, corrected] = float((found - exact).norm() / exact.norm())
    assert errors[45, True] < 0.02
    assert errors[15, True] > 4 * errors[45, True]
    assert errors[15, False] > 1.7 * errors[15, True], "without correction it tends elsewhere"
    assert errors[45, False] > 4 * errors[45, True]


def learnt(*, corrected):
    """What logits alone learn of targets that fall like 1 / rank, from negatives by popularity."""
    items = 30
    probabilities = by_popularity(3000 // np.arange(1, items + 1), power=1.0)
    sampler = NegativeSampler(probabilities, number=8)
    table = torch.zeros(items + 3, 1, requires_grad=True)
    optimiser = torch.optim.SGD([table], lr=3.0)
    mean = torch.zeros(items)
    for n in range(400):
        rng = np.random.default_rng((9, n))
        targets = torch.from_numpy(rng.choice(items, size=64, p=probabilities) + 3)
        drawn = sampler.draw(rng)
        log_counts = drawn.log_counts_of(np.arange(items + 3)) * corrected
        optimiser.zero_grad()
        sampled(torch.ones(64, 1), table, targets, log_counts, drawn.rows).backward()
        optimiser.step()
        if n >= 200:
            mean += table.detach()[3:, 0].softmax(0) / 200
    return mean, torch.from_numpy(probabilities).float()


def test_without_correction_popular_items_are_pushed_down():
    right, wanted = learnt(corrected=True)
    wrong, _ = learnt(corrected=False)
    assert right[0] == pytest.approx(wanted[0].item(), rel=0.1)
    assert (right - wanted).abs().sum() < 0.15
    assert wrong[0] < 0.5 * wanted[0]
    assert (wrong - wanted).abs().sum() > 4 * (right - wanted).abs().sum()


def test_weights_make_the_mean_a_weighted_one():
    hidden, table, targets, log_counts = data()
    targets[2] = 0  # no target, whatever its weight
    weights = torch.linspace(0.1, 0.5, len(targets), dtype=torch.float64)
    loss = sampled(hidden, table, targets, log_counts, weights=weights, chunk=4)
    each = [
        sampled(hidden[row : row + 1], table, targets[row : row + 1], log_counts)
        for row in range(len(targets))
        if row != 2
    ]
    kept = weights[torch.arange(len(targets)) != 2]
    wanted = (torch.stack(each) * kept).sum() / kept.sum()
    torch.testing.assert_close(loss, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(loss, [hidden, table]), torch.autograd.grad(wanted, [hidden, table]), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
    assert sampled(hidden, table, targets, log_counts, weights=torch.zeros_like(weights)).item() == 0
