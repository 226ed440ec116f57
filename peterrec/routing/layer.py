"""Experts and the router that mixes them."""

from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.mlp import MLP
from peterrec.routing.hard_concrete import HardConcreteRouter
from peterrec.routing.linear import LinearRouter
from peterrec.routing.matrix import MatrixRouter
from peterrec.routing.one_hot import OneHotRouter
from peterrec.routing.router import Router
from peterrec.routing.softmax import SoftmaxRouter
from peterrec.routing.wiring import Wiring

ROUTERS = {
    "one_hot": OneHotRouter,
    "softmax": SoftmaxRouter,
    "linear": LinearRouter,
    "hard_concrete": HardConcreteRouter,
    "matrix": MatrixRouter,
}


class RoutedLayer(nn.Module):
    """E experts, each an MLP on a branch of the layer below, and a router that mixes them into O branches.

    `below` is the width of the branches that it reads, `channels` (H) that of those that it gives.
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int):
        super().__init__()
        self.inputs = wiring.expert_inputs
        self.channels = layer.hidden[-1]
        self.penalty_weight = layer.penalty
        self.experts = nn.ModuleList(MLP(below, layer.hidden, dropout=layer.dropout) for _ in wiring.experts)
        self.router: Router = ROUTERS[layer.router](layer, wiring, below=below, channels=self.channels)

    def forward(self, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps the branches `(B, R, D)` of the layer below to its own `(B, O, H)`."""
        branches = below.unbind(1)  # one gradient for all; a selection each would fill a whole one for every reader
        inputs = [branches[branch] for branch in self.inputs]
        return self.router(self.router.run(self.experts, inputs, domain_ids), below, domain_ids=domain_ids)

    def penalty(self) -> Tensor | None:
        """What joins the loss, weighed, `()`; None where its weight is 0."""
        return self.penalty_weight * self.router.penalty(self.experts) if self.penalty_weight else None
