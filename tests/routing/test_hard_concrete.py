"""The hard concrete: its published form and distribution, its noise, and what the penalty does to it."""

import numpy as np
import pytest
import torch

from peterrec.body_recipe import BodyLayer
from peterrec.routing import Body
from peterrec.routing.hard_concrete import HardConcreteRouter


def snr(**options) -> Body:
    torch.manual_seed(0)
    layer = BodyLayer(router="hard_concrete", experts=3, hidden=(4,), **options)
    return Body([layer], channels=5, outputs=2)


def router_of(body: Body, log_alpha: float = 0.0) -> HardConcreteRouter:
    router = body.layers[0].router
    with torch.no_grad():
        router.log_alpha.fill_(log_alpha)
    return router


def test_a_draw_is_the_published_function_of_torchs_noise():
    router = router_of(snr(temperature=2 / 3))
    with torch.no_grad():
        router.log_alpha.copy_(torch.linspace(-3, 3, 6).view(2, 3))
    torch.manual_seed(11)
    z = router.connections().detach().numpy()
    torch.manual_seed(11)
    u, log_alpha = torch.rand(2, 3).numpy(), router.log_alpha.detach().numpy()
    s = 1 / (1 + np.exp(-(np.log(u) - np.log(1 - u) + log_alpha) / (2 / 3)))
    np.testing.assert_allclose(z, np.clip(s * 1.2 - 0.1, 0, 1), rtol=1e-4, atol=1e-6)


def test_draws_differ_in_training_and_not_in_evaluation():
    body, x = snr(), torch.randn(4, 5)
    assert not torch.equal(body(x)[-1], body(x)[-1])
    torch.manual_seed(1)
    one = body(x)[-1]
    torch.manual_seed(1)
    assert torch.equal(body(x)[-1], one)
    body.eval()
    assert torch.equal(body(x)[-1], body(x)[-1])


@pytest.mark.parametrize("log_alpha", [-2.0, 0.0, 1.0])
def test_connections_are_open_as_often_as_the_penalty_says(log_alpha):
    body = snr(penalty=1.0)
    router = router_of(body, log_alpha)
    torch.manual_seed(3)
    draws = torch.stack([router.connections().detach() for _ in range(2000)])
    assert draws.min() >= 0
    assert draws.max() <= 1
    assert (draws == 0).any()
    assert (draws == 1).any()
    wanted = 1 / (1 + np.exp(-(log_alpha - 0.5 * np.log(0.1 / 1.1))))
    assert abs((draws > 0).float().mean().item() - wanted) < 0.02
    assert body.penalty().item() == pytest.approx(6 * wanted, rel=1e-5)
    # each connection is drawn for itself
    assert abs(np.corrcoef(draws.flatten(1).T.numpy()) - np.eye(6)).max() < 0.1


def test_the_extremes_are_finite():
    for log_alpha in (-80.0, 80.0):
        body = snr(transform=True, penalty=1.0, temperature=0.05)
        router_of(body, log_alpha)
        (body(torch.randn(3, 5))[-1].sum() + body.penalty()).backward()
        assert all(parameter.grad.isfinite().all() for parameter in body.parameters())
        given = body.eval()(torch.randn(3, 5))[-1]
        assert (given == 0).all() == (log_alpha < 0)


@pytest.mark.parametrize(("noise", "z"), [(0.0, 0.0), (1.0, 1.0)])
def test_noise_at_its_ends(monkeypatch, noise, z):
    body = snr()
    monkeypatch.setattr(torch, "rand_like", lambda like, dtype: torch.full_like(like, noise, dtype=dtype))
    assert (body.layers[0].router.connections() == z).all()
    body(torch.randn(3, 5))[-1].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in body.parameters())


def test_the_penalty_closes_connections():
    expected: list[float] = []
    for weight in (0.0, 0.02, 0.5):
        body = snr(penalty=weight)
        x = torch.randn(64, 5)
        y = torch.stack([x[:, :4].relu(), (x[:, 1:] - 1).relu()], dim=1)
        optimizer = torch.optim.Adam(body.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            ((body(x)[-1] - y).square().mean() + body.penalty()).backward()
            optimizer.step()
        expected.append(body.layers[0].router.open_probability().sum().item())
    assert expected[0] > expected[1] + 0.1
    assert expected[1] > expected[2] + 0.1
