"""Pretraining by next-item prediction, as a program for the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from peterrec.data.batches import cut, pad, plan, windows
from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import rank_next_items
from peterrec.metrics.ranking import ranking_metrics
from peterrec.objectives.next_item import NextItemBatch, next_item_batch, next_item_loss, tcl_cuts
from peterrec.settings import Settings
from peterrec.training.micro_batch import micro_batch
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
    """One batch: windows `[start, stop)` of the histories `row`, longest first, and its number within the epoch."""

    epoch: int
    number: int
    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]


@dataclass(frozen=True)
class Piece:
    """Some windows of a step, and after how many events of each TCL stands (0: nowhere)."""

    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]
    cuts: NDArray[np.int64]


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

    def num_targets(self, step: Step) -> int:
        """Pairs of an event and the next one, and one more for each TCL row."""
        return int((step.stop - step.start - 1).sum()) + int(np.count_nonzero(self._cuts(step)))

    def weight(self, step: Step) -> float:
        """Each target weighs the same."""
        return self.num_targets(step)

    def pieces(self, step: Step, *, part: int, parts: int) -> Sequence[Piece]:
        """What a process computes of a step; every `parts`-th window, so that lengths are alike in all processes."""
        cuts = self._cuts(step)
        own = np.arange(part, len(step.row), parts)
        lengths = (step.stop - step.start - 1 + (cuts > 0))[own]
        limit = micro_batch(self.model, self._settings)
        return [
            Piece(step.row[chosen], step.start[chosen], step.stop[chosen], cuts[chosen])
            for chosen in (own[few] for few in cut(lengths, positions=limit))
        ]

    def batch(self, piece: Piece) -> NextItemBatch:
        """Inputs and targets of a piece."""
        flat, lengths = self._train.gather(piece.row, piece.start, piece.stop)
        return next_item_batch(pad(flat, lengths), lengths, cuts=piece.cuts)

    def loss(self, piece: Piece, device: torch.device) -> tuple[Tensor, float]:
        """Mean cross-entropy of a piece and its number of targets."""
        batch = self.batch(piece)
        return next_item_loss(self.model, batch.to(device)), len(batch.targets)

    def _cuts(self, step: Step) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._settings.seed, step.epoch, 2, step.number))
        return tcl_cuts(step.stop - step.start, rate=self._objective.tcl_rate, rng=rng)

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
