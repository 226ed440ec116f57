"""Gates: what they give, what they do not see, and what is logged of them."""

import pytest
import torch
from torch import nn

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError
from peterrec.routing import Body


@pytest.mark.parametrize("options", [{"experts": 3}, {"experts": 2, "own_experts": 2}, {"experts": 4, "top_k": 2}])
def test_weights_sum_to_one_over_what_a_gate_sees(body, x, options):
    built = body({"router": "softmax", **options}, {"router": "softmax", "experts": 1, "own_experts": 1})
    router = built.layers[0].router
    weights = router.weights(x.unsqueeze(1))
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, 3))
    assert weights.min() >= 0
    if "top_k" in options:
        assert ((weights > 0).sum(-1) == 2).all()
    if "own_experts" in options:
        unseen = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
        assert ((weights == 0) == unseen).all()


def test_nothing_normalises_a_gate(body):
    built = body({"router": "softmax", "experts": 3})
    assert {type(module) for module in built.layers[0].router.modules() if not list(module.children())} <= {
        type(built.layers[0].router.linears[0])
    }
    assert not any(isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm) for module in built.modules())
    assert all(linear.bias is None for linear in built.layers[0].router.linears)


def test_own_experts_learn_from_their_own_output_alone(body, x):
    built = body({"router": "softmax", "experts": 1, "own_experts": 1})
    built(x)[-1][:, 0].sum().backward()
    shared, own, others = (sum(p.grad.abs().sum() for p in e.parameters()) for e in built.layers[0].experts)
    assert shared > 0
    assert own > 0
    assert others == 0


def test_logged_are_means_over_the_last_batch(body, x):
    built = body({"router": "softmax", "experts": 2, "own_experts": 1})
    built(torch.randn_like(x))
    built(x)
    weights = built.layers[0].router.weights(x.unsqueeze(1)).detach()
    torch.testing.assert_close(built.gates()["0.weights"].float(), weights.mean(0))
    logs = torch.where(weights > 0, weights.log(), 0.0)
    torch.testing.assert_close(built.gates()["0.entropy"].float(), -(weights * logs).sum(-1).mean(0))
    with torch.inference_mode():
        built(x[:2])
    torch.testing.assert_close(built.gates()["0.weights"].float(), weights[:2].mean(0))


def test_the_softmax_is_exact_under_bfloat16(body, x):
    router = body({"router": "softmax", "experts": 3}).float().layers[0].router
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = router.weights(x.float().unsqueeze(1))
    assert weights.dtype == torch.float32
    assert (weights.sum(-1) - 1).abs().max() < 1e-6


def test_more_than_a_gate_sees():
    layer = BodyLayer(router="softmax", experts=1, own_experts=2, top_k=4)
    with pytest.raises(SettingsError, match="top_k = 4, and a gate sees 3 experts"):
        Body([layer], channels=3, outputs=2)
