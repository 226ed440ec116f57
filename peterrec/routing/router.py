"""What every router does."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Router(nn.Module):
    """Runs the E experts of a layer and mixes what they give into its O branches."""

    def run(self, experts: nn.ModuleList, inputs: Sequence[Tensor], domain_ids: Tensor | None) -> Tensor:
        """What each expert makes `(B, E, H)` of its own input `(B, D)`."""
        mapped = [expert(x, domain_ids=domain_ids) for expert, x in zip(experts, inputs, strict=True)]
        return torch.stack(mapped, dim=1)

    @abstractmethod
    def forward(self, mapped: Tensor, below: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Mixes `(B, E, H)` into the branches `(B, O, H)`, given those of the layer below `(B, R, D)`."""

    def penalty(self, experts: nn.ModuleList) -> Tensor:
        """What `penalty` in the recipe weighs: a number `()`, 0 for a router without one."""
        return next(experts.parameters()).new_zeros(())

    def gates(self) -> dict[str, Tensor]:
        """What to log of how the experts are mixed, without gradients."""
        return {}
