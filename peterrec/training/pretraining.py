"""Pretraining by next-item prediction, as a program for the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from peterrec.data.batches import pad, plan, windows
from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import rank_next_items
from peterrec.metrics.ranking import ranking_metrics
from peterrec.objectives.next_item import NextItemBatch, next_item_batch, next_item_loss
from peterrec.settings import Settings
from peterrec.training.settings import TrainingSettings

FEWEST_STEPS = 20  # an epoch; fewer would leave a small log's encoder untrained when patience ends


class ObjectiveSettings(Settings):
    """What the encoder learns from sequences alone."""

    name: Literal["next_item"] = Field("next_item", description="Predict the next item at every position.")
    tcl_rate: float = Field(
        0.1, ge=0, le=1, description="Share of windows with a TCL row at a random cut, which is trained so."
    )


class PretrainingSettings(TrainingSettings):
    """Training settings of pretraining."""

    positions: int = Field(
        6400,
        ge=1,
        description="Users × length of a batch at most, padding included; a small log is cut into 20 batches an epoch.",
    )
    validation_users: int = Field(
        2000, ge=1, description="Users that each validation ranks, the same ones in every epoch."
    )


@dataclass(frozen=True)
class Step:
    """One batch: windows `[start, stop)` of the histories `row`, and its number within the epoch."""

    epoch: int
    number: int
    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]


class NextItemProgram:
    """Next-item prediction on `train`, watched by full ranking on `validation` (the history removed)."""

    metric = "ndcg@10"

    def __init__(
        self,
        encoder: UserEncoder,
        *,
        train: Sequences,
        validation: Sequences,
        objective: ObjectiveSettings,
        settings: PretrainingSettings,
    ):
        if not len(validation):
            raise DataError(
                "The validation part has no users, so nothing says when to stop. Prepare the log with another split "
                "or other cuts."
            )
        self.model = encoder
        self._train = train
        self._validation = validation
        self._objective = objective
        self._settings = settings
        users = np.random.default_rng((settings.seed, 3)).permutation(len(validation))
        pairs = int(np.maximum(train.lengths - 1, 0).sum())
        self._positions = max(min(settings.positions, pairs // FEWEST_STEPS), encoder.config.max_length)
        self._watched = np.sort(users[: settings.validation_users])
        if not self.steps(0):
            raise DataError("No training history has two events, so there is no next item to learn from.")

    def steps(self, epoch: int) -> Sequence[Step]:
        """The batches of an epoch, a pure function of the seed and the epoch."""
        seed = self._settings.seed
        found = windows(self._train.lengths, max_length=self.model.config.max_length, seed=seed, epoch=epoch)
        batches = plan(found.lengths - 1, positions=self._positions, seed=seed, epoch=epoch)
        return [
            Step(epoch, number, found.row[batch], found.start[batch], found.stop[batch])
            for number, batch in enumerate(batches)
        ]

    def batch(self, step: Step) -> NextItemBatch:
        """Inputs and targets of a step."""
        flat, lengths = self._train.gather(step.row, step.start, step.stop)
        rng = np.random.default_rng((self._settings.seed, step.epoch, 2, step.number))
        return next_item_batch(pad(flat, lengths), lengths, tcl_rate=self._objective.tcl_rate, rng=rng)

    def loss(self, step: Step, device: torch.device) -> tuple[Tensor, int]:
        """Mean cross-entropy of a step and its number of targets."""
        batch = self.batch(step)
        on_device = NextItemBatch(
            inputs=batch.inputs.to(device, non_blocking=True),
            targets=batch.targets.to(device, non_blocking=True),
        )
        return next_item_loss(self.model, on_device), batch.num_targets

    def validate(self) -> dict[str, float]:
        """HR, NDCG and MRR at 10 on the watched validation users."""
        ranks = rank_next_items(
            self.model,
            self._validation,
            rows=self._watched,
            max_length=self.model.config.max_length,
            device=next(self.model.parameters()).device,
        )
        return {name: float(values.mean()) for name, values in ranking_metrics(ranks, ks=(10,)).items()}
