"""Soft sharing: the distance between experts, and what a large weight does."""

import itertools

import pytest
import torch

from peterrec.body_recipe import BodyLayer
from peterrec.mlp import MLP
from peterrec.routing import Body
from peterrec.routing.tie import squared_distance


@pytest.mark.parametrize("number", [1, 2, 4])
def test_it_is_the_sum_over_pairs(number):
    torch.manual_seed(0)
    modules = torch.nn.ModuleList(MLP(3, (4, 2)) for _ in range(number))
    wanted = sum(
        sum((p - q).square().sum() for p, q in zip(one.parameters(), other.parameters(), strict=True))
        for one, other in itertools.combinations(modules, 2)
    )
    torch.testing.assert_close(squared_distance(modules), torch.as_tensor(wanted, dtype=torch.float32))


def apart(weight: float) -> float:
    torch.manual_seed(0)
    body = Body([BodyLayer(own_experts=1, hidden=(4,), penalty=weight)], channels=3, outputs=2)
    x, y = torch.randn(64, 3), torch.randn(64, 2, 4)
    optimizer = torch.optim.Adam(body.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        ((body(x)[-1] - y).square().mean() + body.penalty()).backward()
        optimizer.step()
    return squared_distance(body.layers[0].experts).item()


def test_a_large_weight_drives_experts_together():
    distances = [apart(weight) for weight in (0.0, 0.01, 100.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.5
    assert distances[-1] < 1e-3 * distances[0]
