"""Linear maps with weights a domain, against one dense matrix a row."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from peterrec.encoders.dilated import TimeMajorLinear
from peterrec.heads.classification import HeadLinear
from peterrec.tuners.star import StarConfig, StarLayer, domains
from peterrec.tuners.star.domains import row_linear

FORMS = ("full", "low_rank", "per_channel")
IDS = torch.tensor([2, 0, -1, 2, 7, 0, 3])  # of four domains, 1 is absent, 3 has one row, two rows are unknown


def make(form, *, kind=TimeMajorLinear, width=(8, 4), domains=4, bias=True, drawn=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    layer = StarLayer(kind(*width, bias=bias).to(dtype), "a", StarConfig(num_domains=domains, form=form, rank=2))
    layer.base_layer.requires_grad_(False)
    if drawn:
        for p in layer.peterrec_star_deviation.parameters():
            p.data = torch.randn(p.shape, generator=generator).to(p.dtype)
    return layer


def inputs(*, width=8, length=5):
    shape = (len(IDS), width) if length is None else (len(IDS), length, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def reference(layer, x, ids):
    """Each row by its own dense matrix, in float64."""
    own = layer.peterrec_star_deviation["a"]
    own = {name: p.detach().double().numpy() for name, p in own.named_parameters()}
    weight = layer.base_layer.weight.double().numpy()
    bias = 0.0 if layer.base_layer.bias is None else layer.base_layer.bias.double().numpy()
    rows = []
    for row, domain in zip(x.double().numpy(), ids.tolist(), strict=True):
        factor, shift = np.zeros_like(weight), np.zeros(len(weight))
        if 0 <= domain < layer.num_domains("a"):
            if "left" in own:
                factor = np.einsum("or,ri->oi", own["left"][domain], own["right"][domain])
            else:
                factor = own["weight"][domain]
                factor = factor if factor.ndim == 2 else np.repeat(factor[:, None], weight.shape[1], 1)
            shift = own["bias"][domain] if "bias" in own else shift
        rows.append(np.einsum("...i,oi->...o", row, weight * (1 + factor)) + bias + shift)
    return np.stack(rows)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "length"), [(TimeMajorLinear, 5), (TimeMajorLinear, 1), (HeadLinear, None)])
@pytest.mark.parametrize(("width", "bias"), [((8, 4), True), ((5, 3), True), ((8, 4), False)])
def test_each_row_goes_through_the_weights_of_its_domain(form, kind, length, width, bias):
    layer = make(form, kind=kind, width=width, bias=bias)
    x = inputs(width=width[0], length=length)
    y = layer(x, domain_ids=IDS)
    np.testing.assert_allclose(y.detach().numpy(), reference(layer, x, IDS), rtol=1e-4, atol=1e-5)
    if length == 5:
        assert y.transpose(0, 1).is_contiguous(), "memory stays time-major"


@pytest.mark.parametrize("form", FORMS)
def test_it_starts_as_the_frozen_map_exactly(form):
    layer = make(form, drawn=False)
    x = inputs()
    assert torch.equal(layer(x, domain_ids=IDS), layer.base_layer(x))


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_the_others(form):
    layer, x = make(form), inputs()
    together = layer(x, domain_ids=IDS)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[order], domain_ids=IDS[order]), together[order])
    for row in range(len(x)):
        alone = layer(x[row : row + 1], domain_ids=IDS[row : row + 1])
        torch.testing.assert_close(alone, together[row : row + 1])
    assert layer(x[:0], domain_ids=IDS[:0]).shape == (0, 5, 4)


@pytest.mark.parametrize("form", FORMS)
def test_unknown_domains_see_the_shared_weights(form):
    layer, x = make(form), inputs()
    for unknown in (-1, 4, 10**9):
        ids = torch.full((len(x),), unknown)
        assert torch.equal(layer(x, domain_ids=ids), layer.base_layer(x))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("width", [(8, 4), (5, 3)])
def test_gradients_are_those_of_dense_weights_and_zero_for_absent_domains(form, width):
    layer = make(form, width=width)
    x, goal = inputs(width=width[0]).requires_grad_(), inputs(width=width[1])
    own = layer.peterrec_star_deviation["a"]
    (layer(x, domain_ids=IDS) * goal).sum().backward()
    got = {name: p.grad.clone() for name, p in own.named_parameters()} | {"x": x.grad.clone()}
    own.zero_grad()
    x.grad = None
    factors = own.factors().expand(-1, *layer.base_layer.weight.shape)
    factors = torch.cat([factors, torch.zeros_like(factors[:1])])
    known = torch.where((IDS >= 0) & (IDS < 4), IDS, 4)
    shifts = torch.cat([own.bias, torch.zeros_like(own.bias[:1])])
    dense = layer.base_layer.weight * (1 + factors[known])
    y = torch.einsum("bli,boi->blo", x, dense) + (layer.base_layer.bias + shifts[known])[:, None]
    (y * goal).sum().backward()
    for name, p in [*own.named_parameters(), ("x", x)]:
        torch.testing.assert_close(got[name], p.grad, rtol=1e-4, atol=1e-5)
    for name, _ in own.named_parameters():
        assert torch.count_nonzero(got[name][1]) == 0
        assert all(torch.count_nonzero(got[name][k]) for k in (0, 2, 3))


@pytest.mark.parametrize("form", FORMS)
def test_an_absent_domain_stays_and_decay_pulls_to_the_shared_weights(form):
    layer, x = make(form), inputs()
    own = layer.peterrec_star_deviation["a"]
    assert all(p.dim() >= 2 for p in own.parameters()), "what the training loop decays"
    before = copy.deepcopy(dict(own.named_parameters()))
    optimiser = torch.optim.AdamW(own.parameters(), lr=0.1, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        layer(x, domain_ids=IDS).square().sum().backward()
        optimiser.step()
    for name, p in own.named_parameters():
        assert torch.equal(p[1], before[name][1])
        assert not torch.equal(p[0], before[name][0])
    optimiser = torch.optim.AdamW(own.parameters(), lr=0.1, weight_decay=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        (layer(x, domain_ids=IDS) * 0.0).sum().backward()
        optimiser.step()
    torch.testing.assert_close(layer(x, domain_ids=IDS), layer.base_layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_domain_ids(form):
    layer, x = make(form), inputs()
    for wrong, message in [
        (None, r"4 domains: pass domain_ids"),
        (IDS.float(), "whole numbers"),
        (IDS.int(), "whole numbers"),
        (IDS.tolist(), "whole numbers"),
        (IDS[:3], r"shape \(7,\)"),
        (IDS[:, None], r"shape \(7,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            layer(x, domain_ids=wrong)
    single = make(form, domains=1)
    assert torch.equal(single(x), single(x, domain_ids=torch.zeros(len(x), dtype=torch.long)))
    assert not torch.equal(single(x), single.base_layer(x))
    assert torch.equal(single(x, domain_ids=torch.full((len(x),), -1)), single.base_layer(x))


@pytest.mark.parametrize("form", FORMS)
def test_a_frozen_map_in_low_precision(form):
    layer = make(form, dtype=torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in layer.peterrec_star_deviation.parameters())
    x = inputs()
    y = layer(x.bfloat16(), domain_ids=IDS)
    assert y.dtype == torch.bfloat16
    np.testing.assert_allclose(y.detach().float().numpy(), reference(layer, x, IDS), rtol=0.05, atol=0.1)
    y.square().sum().backward()
    at_start = make(form, dtype=torch.bfloat16, drawn=False)
    assert torch.equal(at_start(x.bfloat16(), domain_ids=IDS), at_start.base_layer(x.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert make(form)(x, domain_ids=IDS).dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_several_active_adapters_add_their_differences(form):
    layer, x = make(form), inputs()
    first = layer(x, domain_ids=IDS)
    layer.update_layer("b", StarConfig(num_domains=4, form=form, rank=2))
    for p in layer.peterrec_star_deviation["b"].parameters():
        torch.nn.init.normal_(p)
    layer.set_adapter("b")
    second = layer(x, domain_ids=IDS)
    layer.set_adapter(["a", "b"])
    wanted = first + second - layer.base_layer(x)
    torch.testing.assert_close(layer(x, domain_ids=IDS), wanted, rtol=1e-4, atol=1e-4)


def test_grouping_without_torchs_own_product_of_groups(monkeypatch):
    x, weights = inputs(), torch.randn(4, 4, 8)
    index = torch.where((IDS >= 0) & (IDS < 4), IDS, 4)
    wanted = row_linear(x, weights, index)  # every row through all weights, which are few
    monkeypatch.setattr(domains, "FEW_OUTPUTS", 0)
    torch.testing.assert_close(row_linear(x, weights, index), wanted)
    monkeypatch.delattr(F, "grouped_mm", raising=False)
    torch.testing.assert_close(row_linear(x, weights, index), wanted)


def test_a_plain_linear_map_is_wrapped_too():
    layer, x = make("full", kind=nn.Linear), inputs(length=None)
    np.testing.assert_allclose(
        layer(x, domain_ids=IDS).detach().numpy(), reference(layer, x, IDS), rtol=1e-4, atol=1e-5
    )
