"""Partitioned normalisation from scratch, against STAR's equations in numpy and stock batch norms a domain."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.training.state import learning_tensors
from peterrec.tuners.star import PartitionedNorm

IDS = torch.tensor([2, 0, -1, 2, 7, 0, 3, 0])  # of four domains, 1 is absent, 3 has one row, two rows are unknown
EPS = 1e-5


def make(*, drawn=True, num_domains=4):
    torch.manual_seed(0)
    norm = PartitionedNorm(6, num_domains=num_domains)
    if drawn:
        for p in norm.parameters():
            nn.init.normal_(p)
    return norm


def batch(seed=5, *, shift=2.0, rows=8):
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)) * 3 + shift


def moved(norm, steps=3):
    norm.train()
    for seed in range(steps):
        norm(batch(seed + 10), domain_ids=IDS)
    return norm.eval()


def gain_and_bias(norm, domain):
    """γ · γ_p and β + β_p, where γ_p = 1 + δγ_p."""
    gain, bias = norm.weight.detach().double().numpy(), norm.bias.detach().double().numpy()
    if 0 <= domain < norm.num_domains:
        gain = gain * (1 + norm.domain_weight[domain].detach().double().numpy())
        bias = bias + norm.domain_bias[domain].detach().double().numpy()
    return gain, bias


def running(norm, domain):
    if 0 <= domain < norm.num_domains and norm.batches[domain] > 0:
        return norm.domain_mean[domain].double().numpy(), norm.domain_var[domain].double().numpy()
    return norm.running_mean.double().numpy(), norm.running_var.double().numpy()


def reference(norm, x, ids, *, training, after=None):
    """Row by row in float64; `after` is the norm as training left it, whose running statistics single rows use."""
    values, domains = x.detach().double().numpy(), ids.numpy()
    rows = []
    for row, domain in zip(values, domains.tolist(), strict=True):
        own = values[domains == domain] if 0 <= domain < norm.num_domains else values
        mean, var = running(after or norm, domain)
        if training and len(own) > 1:
            mean, var = own.mean(0), own.var(0)
        gain, bias = gain_and_bias(norm, domain)
        rows.append(gain * (row - mean) / np.sqrt(var + EPS) + bias)
    return np.stack(rows)


@pytest.mark.parametrize("started", [False, True])
def test_in_training_rows_are_normalised_by_those_of_their_domain(started):
    norm = make()
    if started:
        moved(norm)
    before, x = copy.deepcopy(norm), batch()
    y = norm.train()(x, domain_ids=IDS)
    np.testing.assert_allclose(
        y.detach().numpy(), reference(before, x, IDS, training=True, after=norm), rtol=1e-4, atol=1e-4
    )
    alone = make(num_domains=1)
    first = alone.train()(x)
    np.testing.assert_allclose(
        first.detach().numpy(),
        reference(alone, x, torch.zeros(8, dtype=torch.long), training=True),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("started", [False, True])
def test_in_evaluation_rows_are_normalised_by_what_their_domain_has_learned(started):
    norm, x = make().eval(), batch()
    if started:
        moved(norm)
    y = norm(x, domain_ids=IDS)
    np.testing.assert_allclose(y.detach().numpy(), reference(norm, x, IDS, training=False), rtol=1e-4, atol=1e-4)
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    torch.testing.assert_close(norm(x[order], domain_ids=IDS[order]), y[order])
    for row in range(8):
        one = slice(row, row + 1)
        torch.testing.assert_close(norm(x[one], domain_ids=IDS[one]), y[one])
    state = copy.deepcopy(norm.state_dict())
    norm(x, domain_ids=IDS)
    assert all(torch.equal(tensor, state[name]) for name, tensor in norm.state_dict().items())


def test_running_statistics_are_the_average_of_the_first_batches_and_follow_the_later_ones():
    norm = make().train()
    norm.momentum = 0.4
    shared = [torch.zeros(6), torch.ones(6)]
    own = {}
    for seed in range(4):
        x = batch(seed, shift=float(seed))
        ids = IDS if seed else torch.tensor([0, 0, -1, 1, 1, 1, 0, 3])  # domain 2 comes a batch later, 3 by one row
        norm(x, domain_ids=ids)
        followed(shared, x, number=seed + 1)
        for k in range(4):
            rows = x[ids == k]
            if len(rows) > 1:
                statistics, number = own.get(k, ([torch.zeros(6), torch.ones(6)], 0))
                own[k] = statistics, number + 1
                followed(statistics, rows, number=number + 1)
    torch.testing.assert_close(norm.running_mean, shared[0])
    torch.testing.assert_close(norm.running_var, shared[1])
    assert norm.batches.tolist() == [4, 1, 3, 0]
    for k, ((mean, var), _) in own.items():
        torch.testing.assert_close(norm.domain_mean[k], mean)
        torch.testing.assert_close(norm.domain_var[k], var)


def followed(statistics, rows, *, number, momentum=0.4):
    """Moves mean and variance by the batch `rows`, the `number`-th: the average of the first, then the momentum."""
    step = max(1 / number, momentum)
    for kept, new in zip(statistics, (rows.mean(0), rows.var(0)), strict=True):
        kept.copy_((1 - step) * kept + step * new)


def test_after_one_batch_evaluation_is_what_training_was():
    norm, x = make(drawn=False).train(), 0.05 * batch(seed=3)
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    trained = norm(x, domain_ids=ids)
    torch.testing.assert_close(norm.eval()(x, domain_ids=ids), trained, atol=0.2, rtol=0.2)


def test_a_domain_without_batches_of_its_own_is_the_shared_norm():
    norm, x = moved(make()), batch()
    with torch.no_grad():
        norm.domain_weight[3] = norm.domain_bias[3] = 0.0
    unknown = norm(x, domain_ids=torch.full((8,), -1))
    torch.testing.assert_close(norm(x, domain_ids=torch.full((8,), 3)), unknown)
    for other in (4, 10**9):
        assert torch.equal(norm(x, domain_ids=torch.full((8,), other)), unknown)
    assert not torch.allclose(norm(x, domain_ids=torch.full((8,), 0)), unknown, atol=0.1)


def test_at_the_start_all_domains_are_normalised_by_one_stock_norm_in_evaluation():
    norm, stock, x = make(drawn=False).eval(), nn.BatchNorm1d(6).eval(), batch()
    torch.testing.assert_close(norm(x, domain_ids=IDS), stock(x))
    single = make(drawn=False, num_domains=1).train()
    torch.testing.assert_close(single(x), stock.train()(x), rtol=1e-5, atol=1e-5)


def test_gain_is_a_product_and_bias_a_sum():
    norm, x = moved(make()), batch()
    ids = torch.full((8,), 2)
    with torch.no_grad():
        norm.bias.zero_()
        norm.domain_bias.zero_()
        y = norm(x, domain_ids=ids)
        norm.weight.mul_(2.0)
        torch.testing.assert_close(norm(x, domain_ids=ids), 2 * y)
        norm.domain_weight[2] = 3 * (1 + norm.domain_weight[2]) - 1  # γ_p times 3
        torch.testing.assert_close(norm(x, domain_ids=ids), 6 * y)
        norm.bias.fill_(0.5)
        norm.domain_bias[2] = 0.25
        torch.testing.assert_close(norm(x, domain_ids=ids), 6 * y + 0.75)


def test_gradients_go_through_the_statistics_and_to_the_shared_part_from_every_row():
    norm, x, goal = moved(make()), batch().requires_grad_(), batch(6)
    norm.train()
    for domain in (0, 2, 3, -1, 7):
        norm.zero_grad()
        rows = domain == IDS
        (norm(x, domain_ids=IDS) * goal)[rows].sum().backward()
        assert torch.count_nonzero(norm.bias.grad) == 6
        assert torch.count_nonzero(norm.weight.grad) == 6
        for p in (norm.domain_weight, norm.domain_bias):
            assert p.grad.any(dim=1).tolist() == [domain == k for k in range(4)]
    x.grad = None
    (norm(x, domain_ids=IDS) * goal)[IDS == 0].sum().backward()
    got, x.grad = x.grad, None
    gain, bias = (torch.from_numpy(value).float() for value in gain_and_bias(norm, 0))
    alone = nn.functional.batch_norm(x[IDS == 0], None, None, gain, bias, True)
    (alone * goal[IDS == 0]).sum().backward()
    torch.testing.assert_close(got, x.grad, rtol=1e-4, atol=1e-5)


def test_decay_pulls_a_domain_to_the_shared_gain_and_bias():
    norm = moved(make())
    own = [p for p in norm.parameters() if p.dim() >= 2]
    assert {id(p) for p in own} == {id(norm.domain_weight), id(norm.domain_bias)}
    optimiser = torch.optim.AdamW(own, lr=0.1, weight_decay=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        (norm(batch(), domain_ids=IDS) * 0.0).sum().backward()
        optimiser.step()
    for k in range(4):
        gain, bias = gain_and_bias(norm, k)
        np.testing.assert_allclose(gain, norm.weight.detach().numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(bias, norm.bias.detach().numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_of_at_most_one_row_leaves_everything_alone(rows):
    norm = moved(make())
    state, x, ids = copy.deepcopy(norm.state_dict()), batch()[:rows], IDS[:rows]
    wanted = norm(x, domain_ids=ids)
    torch.testing.assert_close(norm.train()(x, domain_ids=ids), wanted)
    assert all(torch.equal(tensor, state[name]) for name, tensor in norm.state_dict().items())


def test_everything_is_saved_and_resumed():
    norm, x = moved(make()), batch()
    assert set(learning_tensors(norm)) == set(norm.state_dict())
    again = make(drawn=False).eval()
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again(x, domain_ids=IDS), norm(x, domain_ids=IDS))


def test_low_precision_keeps_statistics_in_full():
    norm, x = make().train(), batch(shift=100.0)
    wanted = reference(norm, x.bfloat16().float(), IDS, training=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x.bfloat16(), domain_ids=IDS)
    assert y.dtype == torch.bfloat16
    several = torch.isin(IDS, torch.tensor([0, 2, -1, 7]))
    np.testing.assert_allclose(y.detach().float().numpy()[several], wanted[several], rtol=0.05, atol=0.05)
    assert {tensor.dtype for tensor in norm.state_dict().values()} == {torch.float32, torch.long}


def test_domain_ids():
    norm, x = make(), batch()
    with pytest.raises(ValueError, match="4 domains: pass domain_ids"):
        norm(x)
    with pytest.raises(ValueError, match="whole numbers"):
        norm(x, domain_ids=IDS.float())


@pytest.mark.parametrize("training", [True, False])
def test_it_compiles_to_one_graph(training):
    torch._dynamo.reset()
    norm, x = moved(make()).train(training), batch()
    twin = copy.deepcopy(norm)
    compiled = torch.compile(norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, domain_ids=IDS), twin(x, domain_ids=IDS))
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(norm.state_dict()[name], tensor)
