"""Cross connections between the hidden layers of outputs (CoNet)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.mlp import MLP, RowLinear
from peterrec.routing.router import Router
from peterrec.routing.wiring import Wiring


class MatrixRouter(Router):
    """In each layer of its expert, output m gets a_m ← φ(W_m a_m + b_m + H Σ_{n≠m} a_n).

    CoNet (Hu et al., CIKM 2018) for any number of outputs; H is shared by all directions, φ is ReLU. In the lowest
    layer of a body a_n are its inputs: all the same one, unless heads name fields of their own (`heads[].fields`). H
    starts as in `torch.nn.Linear`. The penalty is the L1 norm of all H (SCoNet).
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int, channels: int):
        super().__init__()
        several = len(wiring.outputs) > 1
        widths = (below, *layer.hidden) if several else ()
        self.cross = nn.ModuleList(RowLinear(width, out, bias=False) for width, out in pairwise(widths))

    def run(self, experts: nn.ModuleList, inputs: Sequence[Tensor], domain_ids: Tensor | None) -> Tensor:
        if not self.cross:
            return super().run(experts, inputs, domain_ids)
        x = torch.stack(list(inputs), dim=1)
        for level, cross in enumerate(self.cross):
            crossed = cross(x, domain_ids=domain_ids)
            others = crossed.sum(1, keepdim=True) - crossed
            own: list[Tensor] = []
            for m, expert in enumerate(experts):
                assert isinstance(expert, MLP)
                mapped = expert.linears[level](x[:, m], domain_ids=domain_ids)
                own.append(expert.dropout((mapped + others[:, m]).relu()))
            x = torch.stack(own, dim=1)
        return x

    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return mapped

    def penalty(self, experts: nn.ModuleList) -> Tensor:
        total = super().penalty(experts)
        for module in self.cross.modules():  # a layer with weights a domain holds the linear map inside
            if isinstance(module, nn.Linear):
                total = total + module.weight.abs().sum()
        return total
