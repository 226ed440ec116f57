"""STAR from scratch: linear maps whose shared weights train together with those of the domains."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from peterrec.mlp import MLP, RowLinear
from peterrec.training.state import learning_tensors, restore, snapshot
from peterrec.tuners.star import StarLinear, add_star, domains
from peterrec.tuners.star.deviation import FORMS

IDS = torch.tensor([2, 0, -1, 2, 7, 0, 3, 0])  # of four domains, 1 is absent, 3 has one row, two rows are unknown
WAYS = {"grouped": 0, "all": 10**9}  # how the rows meet their weights


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    monkeypatch.setattr(domains, "FEW_OUTPUTS", WAYS[request.param])
    return request.param


def make(form="full", *, width=(8, 4), bias=True, drawn=True, num_domains=4):
    torch.manual_seed(0)
    layer = StarLinear(RowLinear(*width, bias=bias), num_domains=num_domains, form=form, rank=2)
    if drawn:
        for p in layer.deviation.parameters():
            nn.init.normal_(p)
    return layer


def inputs(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def reference(layer, x, ids):
    """STAR's equations row by row, in float64: `(W_p ⊙ W) x + b_p + b` with W_p = 1 + Δ_p, and 1 for unknown p."""
    own = {name: p.detach().double().numpy() for name, p in layer.deviation.named_parameters()}
    weight = layer.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
    rows = []
    for row, domain in zip(x.detach().double().numpy(), ids.tolist(), strict=True):
        factor, shift = np.ones_like(weight), bias
        if 0 <= domain < layer.deviation.num_domains:
            if "left" in own:
                factor = 1 + own["left"][domain] @ own["right"][domain]
            else:
                factor = 1 + own["weight"][domain].reshape(len(weight), -1)
            shift = bias + own["bias"][domain] if "bias" in own else bias
        rows.append(row @ (factor * weight).T + shift)
    return np.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("width", "bias"), [((8, 4), True), ((5, 1), True), ((8, 4), False)])
@pytest.mark.parametrize("between", [(), (3,)])
def test_each_row_goes_through_the_weights_of_its_domain(form, width, bias, between, way):
    layer, x = make(form, width=width, bias=bias), inputs(8, *between, width[0])
    np.testing.assert_allclose(
        layer(x, domain_ids=IDS).detach().numpy(), reference(layer, x, IDS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("form", FORMS)
def test_it_starts_as_the_map_itself_and_unknown_domains_stay_with_it(form, way):
    layer, x = make(form, drawn=False), inputs(8, 8)
    shared = RowLinear(8, 4)
    shared.load_state_dict({"weight": layer.weight, "bias": layer.bias})
    torch.testing.assert_close(layer(x, domain_ids=IDS), shared(x))
    for p in layer.deviation.parameters():
        nn.init.normal_(p)
    for unknown in (-1, 4, 10**9):
        torch.testing.assert_close(layer(x, domain_ids=torch.full((8,), unknown)), shared(x))
    assert not torch.allclose(layer(x, domain_ids=torch.zeros(8, dtype=torch.long)), shared(x), atol=0.1)


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_the_others(form, way):
    layer, x = make(form), inputs(8, 8)
    together = layer(x, domain_ids=IDS)
    order = torch.tensor([3, 6, 0, 7, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[order], domain_ids=IDS[order]), together[order])
    for row in range(8):
        one = slice(row, row + 1)
        torch.testing.assert_close(layer(x[one], domain_ids=IDS[one]), together[one])
    assert layer(x[:0], domain_ids=IDS[:0]).shape == (0, 4)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_every_domain_teach_the_shared_weights(form, way):
    layer, x, goal = make(form), inputs(8, 8), inputs(8, 4)
    for domain in (0, 2, 3, -1, 7):
        layer.zero_grad()
        ((layer(x, domain_ids=IDS) * goal)[domain == IDS]).sum().backward()
        assert torch.count_nonzero(layer.weight.grad) == 32
        assert torch.count_nonzero(layer.bias.grad) == 4
        for p in layer.deviation.parameters():
            seen = p.grad.flatten(1).any(dim=1)
            assert seen.tolist() == [domain == k for k in range(4)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [(8, 4), (5, 1)])
def test_gradients_are_those_of_a_matrix_a_row(form, width, way):
    layer, x, goal = make(form, width=width), inputs(8, width[0]).requires_grad_(), inputs(8, width[1])
    own = layer.deviation
    (layer(x, domain_ids=IDS) * goal).sum().backward()
    got = {name: p.grad.clone() for name, p in layer.named_parameters()} | {"x": x.grad.clone()}
    layer.zero_grad()
    x.grad = None
    known = torch.where((IDS >= 0) & (IDS < 4), IDS, 4)
    factors = torch.cat([own.factors().expand(-1, *layer.weight.shape), torch.zeros(1, *layer.weight.shape)])
    shifts = torch.cat([own.bias, torch.zeros(1, width[1])])
    dense = layer.weight * (1 + factors[known])
    y = torch.einsum("bi,boi->bo", x, dense) + layer.bias + shifts[known]
    (y * goal).sum().backward()
    for name, p in [*layer.named_parameters(), ("x", x)]:
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_decay_pulls_a_domain_to_the_shared_weights(form):
    layer, x = make(form), inputs(8, 8)
    assert all(p.dim() >= 2 for p in layer.deviation.parameters()), "what the training loop decays"
    optimiser = torch.optim.AdamW(layer.deviation.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        (layer(x, domain_ids=IDS) * 0.0).sum().backward()
        optimiser.step()
    shared = nn.functional.linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, domain_ids=IDS), shared, rtol=1e-4, atol=1e-4)
    assert torch.count_nonzero(layer.weight) == 32


def test_low_precision(way):
    for form in FORMS:
        layer, x = make(form), inputs(8, 8)
        wanted = reference(layer, x, IDS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x, domain_ids=IDS)
        assert y.dtype == torch.bfloat16
        np.testing.assert_allclose(y.detach().float().numpy(), wanted, rtol=0.05, atol=0.1)
        y.square().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


class Network(nn.Module):
    """Experts, one of which stands in two places, and towers, with a map that knows no domain."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        shared = MLP(6, (8, 4), dropout=0.5)
        self.experts = nn.ModuleList([MLP(6, (8, 4)), shared, shared])
        self.mix = nn.Linear(12, 4)
        self.output = RowLinear(4, 1)

    def forward(self, x, domain_ids=None):
        x = torch.cat([expert(x, domain_ids=domain_ids) for expert in self.experts], dim=1)
        return self.output(self.mix(x), domain_ids=domain_ids)


def starred(form="full"):
    network = Network()
    add_star(network, num_domains=4, form=form, rank=2)
    return network


@pytest.mark.parametrize("form", FORMS)
def test_every_map_of_a_network_that_knows_domains_takes_part(form):
    plain, network, x = Network().eval(), starred(form).eval(), inputs(8, 6)
    found = [name for name, module in network.named_modules() if isinstance(module, StarLinear)]
    assert found == [
        "experts.0.linears.0",
        "experts.0.linears.1",
        "experts.1.linears.0",
        "experts.1.linears.1",
        "output",
    ]
    assert network.experts[1] is network.experts[2]
    assert type(network.mix) is nn.Linear
    torch.testing.assert_close(network(x, domain_ids=IDS), plain(x))
    state = network.state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(state[name], tensor), "the shared weights keep their names"
    assert all(p.requires_grad for p in network.parameters())
    own = {name for name in state if ".deviation." in name}
    assert {name.partition(".deviation.")[0] for name in own} >= set(found)
    assert all(len(state[name]) == 4 for name in own)
    with pytest.raises(ValueError, match="4 domains: pass domain_ids"):
        network(x)


def test_a_map_that_stands_under_two_names_stays_one():
    tied = nn.Module()
    tied.first = tied.second = RowLinear(4, 4)
    add_star(tied, num_domains=2, form="full", rank=1)
    assert isinstance(tied.first, StarLinear)
    assert tied.first is tied.second


@pytest.mark.parametrize("form", FORMS)
def test_a_trained_network_is_saved_with_the_weights_of_every_domain(form):
    network, x = starred(form), inputs(8, 6)
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.05)
    kept, start = snapshot(network), copy.deepcopy(network)
    for _ in range(3):
        optimiser.zero_grad()
        (network(x, domain_ids=torch.arange(8) % 4) - 1).square().sum().backward()
        optimiser.step()
    y = network.eval()(x, domain_ids=IDS)
    again = starred(form).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x, domain_ids=IDS), y)
    changed = {
        name for name, tensor in network.state_dict().items() if not torch.equal(tensor, start.state_dict()[name])
    }
    assert changed == set(network.state_dict()), "all that it holds has learned"
    assert set(learning_tensors(network)) == {name for name, _ in network.named_parameters()}
    restore(network, kept)
    torch.testing.assert_close(network(x, domain_ids=IDS), start.eval()(x, domain_ids=IDS))


def test_no_tensor_holds_a_matrix_a_row(way):
    rows, channels, largest = 512, 32, [0]
    network = MLP(channels, (channels,))
    add_star(network, num_domains=3, form="full", rank=1)
    x, ids = inputs(rows, channels).requires_grad_(), torch.arange(rows) % 4 - 1

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    largest[0] = max(largest[0], tensor.untyped_storage().nbytes() // tensor.element_size())
            return out

    with Watch():
        network(x, domain_ids=ids).square().sum().backward()
    assert rows * channels <= largest[0] <= rows * channels * 4


@pytest.mark.parametrize("form", FORMS)
def test_it_compiles_to_one_graph(form, way):
    torch._dynamo.reset()
    network, x = starred(form).eval(), inputs(8, 6)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, domain_ids=IDS), network(x, domain_ids=IDS))
    compiled(x, domain_ids=IDS).sum().backward()
    assert all(p.grad is not None for p in network.parameters())
