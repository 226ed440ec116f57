"""Connections that are learned to be there or not (SNR)."""

import math

import torch
from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.mlp import RowLinear
from peterrec.routing.router import Router
from peterrec.routing.wiring import Wiring

LOW, HIGH = -0.1, 1.1  # γ and ζ, the ends to which the concrete variable is stretched


class HardConcreteRouter(Router):
    """Gives branch j Σ_i z_ji x_i, or with `transform` Σ_i z_ji W_ji x_i, with one gate z a connection.

    SNR-Aver and SNR-Trans (Ma et al., AAAI 2019); z is the hard concrete of Louizos et al. (ICLR 2018, section 2.2):
    in training of noise drawn anew in each forward pass, for all rows of it, from torch's generator; in evaluation
    min(1, max(0, σ(ln α)(ζ − γ) + γ)). All ln α start at 0 (z = ½ in evaluation), and each branch's matrices W_ji,
    side by side one linear map of all experts, as in `torch.nn.Linear`: choices of ours. The penalty is the
    expected number of open connections.
    """

    def __init__(self, layer: BodyLayer, wiring: Wiring, *, below: int, channels: int):
        super().__init__()
        experts = len(wiring.experts)
        self.temperature = layer.temperature
        self.log_alpha = nn.Parameter(torch.zeros(wiring.width, experts))
        maps = wiring.width if layer.transform else 0
        self.transforms = nn.ModuleList(RowLinear(experts * channels, channels, bias=False) for _ in range(maps))

    def connections(self) -> Tensor:
        """The gates z `(O, E)` in [0, 1]; in training a new draw."""
        if not self.training:
            return self._stretched(self.log_alpha.sigmoid())
        # a draw of exactly 0 has the logit -inf, and the sigmoid of that is 0, without a gradient
        noise = torch.rand_like(self.log_alpha, dtype=torch.float32).logit()
        return self._stretched(((noise + self.log_alpha) / self.temperature).sigmoid())

    def open_probability(self) -> Tensor:
        """P(z ≠ 0) `(O, E)` of each connection."""
        return (self.log_alpha - self.temperature * math.log(-LOW / HIGH)).sigmoid()

    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        z = self.connections().to(mapped.dtype)
        if not self.transforms:
            return z @ mapped
        branches = [
            transform((z_j.unsqueeze(-1) * mapped).flatten(1), domain_ids=domain_ids)
            for transform, z_j in zip(self.transforms, z, strict=True)
        ]
        return torch.stack(branches, dim=1)

    def penalty(self, experts: nn.ModuleList) -> Tensor:
        return self.open_probability().sum()

    @torch.no_grad()
    def gates(self) -> dict[str, Tensor]:
        """`weights` `(O, E)`: z as in evaluation; `open` `(O, E)`: P(z ≠ 0)."""
        return {"weights": self._stretched(self.log_alpha.sigmoid()), "open": self.open_probability()}

    @staticmethod
    def _stretched(s: Tensor) -> Tensor:
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)
