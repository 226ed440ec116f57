"""What the training loop asks of a program: batches, their loss, and a validation."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Program(Protocol):
    """What is trained, on what, and how it is judged."""

    @property
    def model(self) -> nn.Module:
        """The model; its trainable parameters are those with `requires_grad`."""
        ...

    @property
    def metric(self) -> str:
        """The validation metric to maximise."""
        ...

    def steps(self, epoch: int) -> Sequence[Any]:
        """The batches of an epoch (from 1) as plain data: a pure function of the epoch."""
        ...

    def loss(self, step: Any, device: torch.device) -> tuple[Tensor, int]:
        """The mean loss of one of `steps`, a scalar with its graph, and the number of targets in it."""
        ...

    def validate(self) -> dict[str, float]:
        """The validation metrics; called in evaluation mode, without gradients and in full precision."""
        ...
