"""The loss of each objective of a training that has several, for the record of an epoch."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from peterrec.training.program import Program, SeveralObjectives


def objectives_of(program: Program) -> tuple[str, ...]:
    """The names of the T objectives that the record tells apart; none where the loss is that of one, unweighted."""
    found = dict(program.weights) if isinstance(program, SeveralObjectives) else {}
    return tuple(found) if len(found) > 1 or any(weight != 1 for weight in found.values()) else ()


def add_losses(losses: Tensor, program: Program, *, step: Any, counts: dict[str, int]) -> None:
    """Adds to `losses` `(T,)` what the pieces of `step` came to in this process, and its targets to `counts`."""
    if not len(losses):
        return
    assert isinstance(program, SeveralObjectives)
    taken = program.take_losses()
    if taken is not None:
        losses += taken
    for name, targets in program.counts(step).items():
        counts[name] = counts.get(name, 0) + targets


def mean_losses(
    sums: Tensor, names: tuple[str, ...], *, counts: Mapping[str, int]
) -> dict[str, dict[str, float | None]]:
    """The mean loss of each objective over its targets in an epoch, as `losses`; None where it had none."""
    if not names:
        return {}
    means = {name: value / counts[name] for name, value in zip(names, sums.tolist(), strict=True) if counts.get(name)}
    return {"losses": {name: finite(means.get(name, math.nan)) for name in names}}


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
