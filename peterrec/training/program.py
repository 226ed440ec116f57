"""What the training loop asks of a program: batches, their pieces, the loss of a piece, and a validation."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from peterrec.balancing.balancer import Balancer
from peterrec.balancing_recipe import BalancerName, Balancing


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
        """The batches of an epoch (from 1), of all processes together, as plain data: a pure function of the epoch."""
        ...

    def num_targets(self, step: Any) -> int:
        """How many targets one of `steps` has, for those who watch."""
        ...

    def weight(self, step: Any) -> float:
        """What the targets of one of `steps` weigh together: its loss is their weighted mean."""
        ...

    def pieces(self, step: Any, *, part: int, parts: int) -> Sequence[Any]:
        """What process `part` of `parts` computes of one of `steps`, cut so that a piece's activations stay in cache.

        All pieces of all parts together are the step, and whatever is random in it is drawn for the step as a whole.
        A process may get none.
        """
        ...

    def loss(self, piece: Any, device: torch.device) -> tuple[Tensor, float]:
        """The mean loss of a piece, a scalar with its graph, and what its targets weigh together."""
        ...

    def validate(self) -> dict[str, float]:
        """The validation metrics; called in evaluation mode, without gradients and in full precision."""
        ...


@runtime_checkable
class SeveralObjectives(Protocol):
    """What a program offers beside, so that the record of an epoch tells the loss of each of its objectives."""

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of its T objectives, by name."""
        ...

    def counts(self, step: Any) -> Mapping[str, int]:
        """How many targets of each one of `steps` has."""
        ...

    def take_losses(self) -> Tensor | None:
        """The losses of each, without weights, summed over their targets in the pieces computed since the last call;
        `(T,)`, on the device, or None where there were no pieces."""
        ...


@runtime_checkable
class BalancedObjectives(SeveralObjectives, Program, Protocol):
    """What a program offers beside whose objectives may be balanced otherwise than by their sum."""

    @property
    def balancer(self) -> BalancerName:
        """How they are; the `sum` is left to `loss`."""
        ...

    @property
    def balancing(self) -> Balancing:
        """The balancer's options."""
        ...

    def make_balancer(self, tensors: int) -> Balancer:
        """A fresh balancer of the objectives, which share so many tensors."""
        ...

    def losses(self, piece: Any, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """What a piece adds to the loss of its step, apart: penalties `()`, and each of the T objectives `()` times its
        weight; without a graph where the step has no target of it."""
        ...

    def probe(self, device: torch.device) -> Sequence[Tensor]:
        """A number `()` for each objective that depends on all that its prediction of some training rows depends on."""
        ...
