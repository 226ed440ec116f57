"""What the history of a training tells of an epoch."""

from collections.abc import Mapping
from typing import Any

from peterrec.training.objective_losses import finite
from peterrec.training.state import TrainingState


def start_record(state: TrainingState, validation: Mapping[str, float], figures: Mapping[str, float]) -> dict[str, Any]:
    """The record of a model before its first step, as epoch 0, with `figures` of how it was readied."""
    return {
        "epoch": 0,
        "step": 0,
        "loss": None,
        "learning_rate": None,
        "targets": 0,
        "validation": {name: finite(value) for name, value in validation.items()},
        "seconds": state.seconds,
        "targets_per_second": 0.0,
        **figures,
    }


def epoch_record(
    state: TrainingState,
    validation: Mapping[str, float],
    *,
    loss: float,
    objectives: Mapping[str, Any],
    learning_rate: float,
) -> dict[str, Any]:
    """The record of the epoch that has ended: its mean loss, what is told of its `objectives`, figures and speed."""
    return {
        "epoch": state.epoch,
        "step": state.step,
        "loss": finite(loss),
        **objectives,
        "learning_rate": learning_rate,
        "targets": state.epoch_targets,
        "validation": {name: finite(value) for name, value in validation.items()},
        "seconds": state.epoch_seconds,
        "targets_per_second": state.epoch_targets / max(state.epoch_seconds, 1e-9),
    }
