"""Two regressions whose relation is set, and the networks that learn them with shared or gated experts."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.mlp import MLP, RowLinear
from peterrec.routing import Body

SYSTEMS = ("shared_bottom", "omoe", "mmoe")
EXPERTS, WIDTH, TOWER = 8, 16, 8
HELD_OUT = 4096
NOISE = 0.1  # standard deviation


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run."""

    correlations: tuple[float, ...] = (0.5, 0.9, 1.0)
    seeds: int = 5
    steps: int = 3000
    learning_rates: tuple[float, ...] = (0.003, 0.01)
    batch: int = 128
    channels: int = 100
    sines: int = 4
    points: int = 20  # of a curve


class Tasks:
    """The two regressions of each run: R = P·S runs, seed after seed at each of the P correlations.

    A seed has a stream of its own, and the same directions, phases, inputs and noise at every correlation.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.streams = [torch.Generator().manual_seed(seed) for seed in range(plan.seeds)]
        axes = torch.linalg.qr(self._drawn(torch.randn, plan.channels, 2)).Q
        cosine = torch.tensor(plan.correlations)[:, None, None]
        turned = cosine * axes[..., 0] + (1 - cosine**2).sqrt() * axes[..., 1]
        self.weights = torch.stack([axes[..., 0].expand_as(turned), turned], dim=-1).flatten(0, 1)  # (R, D, 2)
        self.rates = torch.arange(1.0, plan.sines + 1)
        self.phases = self._each_run(2 * torch.pi * self._drawn(torch.rand, 1, 1, plan.sines))

    def draw(self, rows: int) -> tuple[Tensor, Tensor]:
        """Inputs (R, B, D) and both labels (R, B, 2)."""
        x = self._each_run(self._drawn(torch.randn, rows, self.plan.channels))
        noise = self._each_run(self._drawn(torch.randn, rows, 2))
        score = x @ self.weights
        waves = torch.sin(score[..., None] * self.rates + self.phases).sum(-1)
        return x, score + waves + NOISE * noise

    def _drawn(self, draw: Callable[..., Tensor], *shape: int) -> Tensor:
        return torch.stack([draw(*shape, generator=stream) for stream in self.streams])

    def _each_run(self, values: Tensor) -> Tensor:
        return values.repeat(len(self.plan.correlations), *[1] * (values.ndim - 1))


class TwoTasks(nn.Module):
    """A body of one layer and a tower a task: `(B, D)` → `(B, 2)`."""

    def __init__(self, layer: BodyLayer, *, channels: int):
        super().__init__()
        self.body = Body([layer], channels=channels, outputs=2)
        towers = [MLP(self.body.widths[-1], (TOWER,)) for _ in range(2)]
        self.towers = nn.ModuleList(nn.Sequential(tower, RowLinear(TOWER, 1)) for tower in towers)

    def forward(self, x: Tensor) -> Tensor:
        top = self.body(x)[-1]
        outputs = [tower(top[:, self.body.branch(-1, task)]) for task, tower in enumerate(self.towers)]
        return torch.cat(outputs, dim=1)


def layer_of(system: str, *, width: int) -> BodyLayer:
    """The body of a system whose experts have `width` channels."""
    if system == "shared_bottom":
        return BodyLayer(router="one_hot", experts=1, hidden=(width,))
    return BodyLayer(router="softmax", experts=EXPERTS, hidden=(width,), tied=system == "omoe")


def parameters_of(system: str, *, width: int, channels: int) -> int:
    """How many numbers such a network learns."""
    with torch.device("meta"):
        model = TwoTasks(layer_of(system, width=width), channels=channels)
    return sum(parameter.numel() for parameter in model.parameters())


def equal_widths(channels: int) -> dict[str, int]:
    """The width of each system's experts with which its parameters are nearest to MMoE's."""
    budget = parameters_of("mmoe", width=WIDTH, channels=channels)

    def nearest(system: str) -> int:
        one, two = (parameters_of(system, width=width, channels=channels) for width in (1, 2))
        return max(1, round(1 + (budget - one) / (two - one)))  # each channel costs the same

    return {system: WIDTH if system == "mmoe" else nearest(system) for system in SYSTEMS}


def train(system: str, *, width: int, rate: float, plan: Plan) -> dict[str, NDArray[np.float64]]:
    """Trains the networks of all runs side by side, each on its own data and by its own gradient.

    Returns `step` (T,), the errors `validation` and `test` (P, S, T), and `label_correlation` (P, S).
    """
    tasks = Tasks(plan)
    x, labels = tasks.draw(2 * HELD_OUT)
    networks = []
    for _ in plan.correlations:
        for seed in range(plan.seeds):
            torch.manual_seed(seed)
            networks.append(TwoTasks(layer_of(system, width=width), channels=plan.channels))
    weights, buffers = torch.func.stack_module_state(networks)
    with torch.device("meta"):
        frame = TwoTasks(layer_of(system, width=width), channels=plan.channels)

    def errors(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, labels: Tensor) -> Tensor:
        return (torch.func.functional_call(frame, (weights, buffers), (x,)) - labels).square().mean(-1)

    all_errors = torch.vmap(errors)
    # Adam works number by number: on the weights of all networks at once it does what it does on each.
    optimizer = torch.optim.Adam(weights.values(), lr=rate, fused=True)
    stops = sorted({round(plan.steps * point / plan.points) for point in range(plan.points + 1)})
    curve: list[Tensor] = []
    for step in range(plan.steps + 1):
        if step in stops:
            with torch.no_grad():
                found = all_errors(weights, buffers, x, labels)
            curve.append(torch.stack([found[:, :HELD_OUT].mean(1), found[:, HELD_OUT:].mean(1)]))
        if step < plan.steps:
            optimizer.zero_grad()
            all_errors(weights, buffers, *tasks.draw(plan.batch)).mean(1).sum().backward()
            optimizer.step()
    shape = len(plan.correlations), plan.seeds
    validation, test = torch.stack(curve, dim=-1).double().numpy()
    together = [np.corrcoef(run.T.numpy())[0, 1] for run in labels]
    return {
        "step": np.array(stops, np.float64),
        "validation": validation.reshape(*shape, -1),
        "test": test.reshape(*shape, -1),
        "label_correlation": np.array(together).reshape(shape),
    }
