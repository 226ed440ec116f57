"""Cross-stitch: how it starts, and when it does nothing."""

import pytest
import torch

from peterrec.body_recipe import BodyLayer
from peterrec.routing import Body


@pytest.mark.parametrize("per_channel", [False, True])
def test_with_own_weights_alone_it_is_separate_towers(body, x, per_channel):
    layer = {"own_experts": 1, "hidden": (4,)}
    stitched = body({"router": "linear", "per_channel": per_channel, **layer}, layer, outputs=3)
    towers = body(layer, layer, outputs=3)
    towers.load_state_dict({name: value for name, value in stitched.state_dict().items() if "router" not in name})
    assert not torch.allclose(stitched(x)[-1], towers(x)[-1])
    weight = stitched.layers[0].router.weight
    with torch.no_grad():
        weight.copy_(torch.eye(3).view(3, 3, *[1] * (weight.dim() - 2)).expand_as(weight))
    torch.testing.assert_close(stitched(x)[-1], towers(x)[-1])


def test_start():
    def start(outputs: int, **options) -> torch.Tensor:
        layer = BodyLayer(router="linear", own_experts=1, hidden=(4,), **options)
        return Body([layer], channels=3, outputs=outputs).layers[0].router.weight

    torch.testing.assert_close(start(2), torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    torch.testing.assert_close(start(3, own_share=0.5), torch.tensor(0.25).expand(3, 3) + 0.25 * torch.eye(3))
    torch.testing.assert_close(start(2, per_channel=True)[..., 3], torch.tensor([[0.9, 0.1], [0.1, 0.9]]))
    assert start(1).tolist() == [[1.0]]


def test_weights_are_logged(body, x):
    built = body({"router": "linear", "own_experts": 1, "hidden": (4,), "per_channel": True})
    torch.testing.assert_close(built.gates()["0.weights"], built.layers[0].router.weight.detach().mean(-1))
