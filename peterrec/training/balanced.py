"""The gradients of a step whose objectives are balanced."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from peterrec.balancing.balancer import Balancer
from peterrec.balancing.gradient_rows import GradientRows
from peterrec.balancing_recipe import OF_GRADIENTS
from peterrec.data.upload import upload
from peterrec.errors import SettingsError
from peterrec.training.generators import seed_generators
from peterrec.training.optimizer import Updater
from peterrec.training.processes import Processes
from peterrec.training.program import BalancedObjectives, Program
from peterrec.training.roles import shared_parameters
from peterrec.training.settings import TrainingSettings


class BalancedGradients:
    """Adds up what the pieces of a step say, and gives each parameter what the program's balancer makes of it.

    A balancer of losses costs one backward pass a piece, as their sum does. One that reads gradients costs a pass an
    objective and a copy an objective of what they share; all other parameters get the sum of the weighted losses.
    Raises SettingsError for a balancer of gradients where the model is compiled, whose graphs go backward once.
    """

    def __init__(
        self, program: BalancedObjectives, updater: Updater, *, accelerator: Accelerator, settings: TrainingSettings
    ) -> None:
        self._program = program
        self._updater = updater
        self._accelerator = accelerator
        self._settings = settings
        self._names = tuple(program.weights)
        shared: list[str] = []
        if program.balancer in OF_GRADIENTS:
            if settings.compile:
                raise SettingsError(
                    "compile = true goes with balancers of losses alone, since a compiled graph goes backward once; "
                    "set compile = false, or take another balancer."
                )
            shared = shared_parameters(
                program, updater.parameters, looked_up=updater.tables, tables=program.balancing.tables
            )
        self.shared = tuple(shared)
        self._rows = GradientRows([updater.parameters[name] for name in shared], objectives=len(self._names))
        self.balancer: Balancer = program.make_balancer(len(shared)).to(accelerator.device)
        self._others = [p for name, p in updater.parameters.items() if name not in set(shared)]
        self._weights: Tensor = self.balancer.weights()

    def begin(self) -> None:
        """A step begins."""
        self._weights = self.balancer.weights().clone()
        self._rows.clear()

    def add(self, piece: Any) -> Tensor:
        """Adds a piece; what it adds to the loss `()`, as it would be without a balancer."""
        with self._accelerator.autocast():
            penalty, losses = self._program.losses(piece, self._accelerator.device)
        if not self.balancer.reads_gradients:
            self._updater.add(penalty + (torch.stack(losses) * self._weights).sum())
        else:
            live = [number for number, loss in enumerate(losses) if loss.requires_grad]
            if penalty.requires_grad:
                self._rows.open(len(losses))
                self._updater.add(penalty, keep_graph=bool(live))
            for number in live:
                self._rows.open(number)
                self._updater.add(losses[number] * self._weights[number], keep_graph=number != live[-1])
            self._rows.close()
        return penalty.detach() + torch.stack(losses).detach().sum()

    def finish(self, losses: Tensor, *, batch: Any, step: int, processes: Processes, stop: bool) -> bool:
        """Sums over processes, and gives the parameters their gradients; whether any process says `stop`.

        `losses` `(1 + T,)` are the step's loss and those of the objectives times their targets.
        """
        counts = self._program.counts(batch)
        stop = processes.sum_gradients([*self._others, *self._rows.carriers], loss=losses, stop=stop)
        present = [counts[name] > 0 for name in self._names]
        targets = torch.tensor([float(max(counts[name], 1)) for name in self._names])
        means = losses[1:] / upload(targets, losses.device)
        weights = self._weights
        if self.balancer.reads_gradients and self.shared:
            # the same draws in all processes
            seed_generators(self._settings.seed, purpose="balance", number=step, device=losses.device)
            coefficients = self.balancer.coefficients(self._rows, present=present)
            self._rows.combine(coefficients)
            weights = weights * (coefficients.mean(0) if coefficients.ndim > 1 else coefficients)
        self.balancer.tell(weights, present=present)
        self.balancer.update(means, present=present)
        return stop

    def end_epoch(self) -> dict[str, dict[str, float]]:
        """The mean weight of each objective in the epoch, as `weights`."""
        return {"weights": {self._names[number]: mean for number, mean in self.balancer.end_epoch().items()}}


def balanced_gradients(
    program: Program, updater: Updater, *, accelerator: Accelerator, settings: TrainingSettings
) -> BalancedGradients | None:
    """Those of a program that wants more than the sum of its losses."""
    if not isinstance(program, BalancedObjectives) or program.balancer == "sum":
        return None
    return BalancedGradients(program, updater, accelerator=accelerator, settings=settings)
