"""Free weights between outputs (cross-stitch)."""

import torch
from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.routing.router import Router
from peterrec.routing.wiring import Wiring


class LinearRouter(Router):
    """Gives output k the sum Σ_l α_kl x_l of all outputs' experts (Misra et al., CVPR 2016).

    α `(M, M)`, or with `per_channel` `(M, M, H)`, starts at `own_share` for k = l; the rest of 1 is divided evenly.
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int, channels: int):
        super().__init__()
        outputs = len(wiring.outputs)
        own = layer.own_share if outputs > 1 else 1.0
        start = torch.full((outputs, outputs), (1 - own) / max(outputs - 1, 1)).fill_diagonal_(own)
        if layer.per_channel:
            start = start.unsqueeze(-1).repeat(1, 1, channels)
        self.weight = nn.Parameter(start)

    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        if self.weight.dim() == 2:
            return self.weight.to(mapped.dtype) @ mapped
        return (self.weight.to(mapped.dtype) * mapped.unsqueeze(1)).sum(2)

    def gates(self) -> dict[str, Tensor]:
        """`weights` `(M, M)`: α, its mean over channels."""
        weight = self.weight.detach()
        return {"weights": weight if weight.dim() == 2 else weight.mean(-1)}
