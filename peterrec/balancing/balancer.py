"""How the losses of T objectives become one update: what all methods share."""

from abc import ABC
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from peterrec.balancing.gradient_rows import GradientRows
from peterrec.errors import RefusedError

Present = Sequence[bool]  # which of the T objectives have a target in the step


class Balancer(nn.Module, ABC):
    """Weighs the losses of T objectives, or, where `reads_gradients`, their gradients on what several share.

    What is not shared, embedding tables included, gets the sum of the losses times `weights`. All state is in buffers;
    what an absent objective left is kept as it is. Nothing here waits for the device, but for torchjd's own methods.
    """

    reads_gradients: ClassVar[bool] = False

    def __init__(self, objectives: int):
        super().__init__()
        self.objectives = objectives
        self.told: Tensor  # the weights of the steps of this epoch, summed, and their number, for each objective
        self.told_steps: Tensor
        self.register_buffer("told", torch.zeros(objectives))
        self.register_buffer("told_steps", torch.zeros(objectives))

    def weights(self) -> Tensor:
        """What each loss is multiplied by in the next step, `(T,)`."""
        return torch.ones_like(self.told)

    def coefficients(self, rows: GradientRows, *, present: Present) -> Tensor:
        """What the gradients of this step are multiplied by, `(T,)`, or `(P, T)` for each of P shared tensors."""
        return torch.ones_like(self.told)

    def update(self, losses: Tensor, *, present: Present) -> None:
        """Learns from the mean losses `(T,)` of a step; those of absent objectives say nothing."""

    def end_epoch(self) -> dict[int, float]:
        """The mean weight of each objective, by number, in the steps of the epoch that had it; begins a new epoch."""
        steps = self.told_steps.tolist()
        means = (self.told / self.told_steps.clamp(min=1)).tolist()
        self.told.zero_()
        self.told_steps.zero_()
        return {number: mean for number, (mean, n) in enumerate(zip(means, steps, strict=True)) if n}

    def tell(self, weights: Tensor, *, present: Present) -> None:
        """Notes what the objectives weighed `(T,)` in a step."""
        mask = self.mask(present)
        self.told += torch.where(mask, weights.to(self.told.dtype), 0.0)
        self.told_steps += mask

    def mask(self, present: Present) -> Tensor:
        """`present` as a tensor `(T,)` on the device."""
        found = torch.tensor(list(present))
        return found.pin_memory().to(self.told.device, non_blocking=True) if self.told.is_cuda else found

    def state(self) -> dict[str, Tensor]:
        """All that a resume needs."""
        return dict(self.state_dict())

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Takes back what `state` gave. Raises RefusedError where it belongs to another balancer."""
        own = self.state_dict()
        if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in tensors.items()}:
            raise RefusedError("The checkpoint has the state of another balancer; start afresh with --overwrite.")
        self.load_state_dict(tensors)
