"""Pretraining by next-item prediction, as a program for the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from peterrec.data.batches import Windows, cut, pad, plan, windows
from peterrec.data.sequences import Sequences
from peterrec.data.shapes import Shape, divide, ladder, plan_shapes
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import rank_next_items
from peterrec.metrics.ranking import ranking_metrics
from peterrec.objectives.negatives import SharedNegatives
from peterrec.objectives.next_item import NextItemBatch, next_item_batch, next_item_loss, tcl_cuts
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.objectives.step_negatives import StepNegatives
from peterrec.training.micro_batch import micro_batch
from peterrec.training.settings import TrainingSettings
from peterrec.training.sharding import describe_sharding, shard_tables
from peterrec.training.table_update import describe_table_update, row_updates

FEWEST_STEPS = 20  # an epoch; fewer would leave a small log's encoder untrained when patience ends


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
    static_shapes: bool | Literal["auto"] = Field(
        "auto",
        description="Round lengths up so that batches come in few shapes, which CUDA graphs need; it pads more. auto: "
        "where compile is on.",
    )
    shard_tables: bool = Field(
        False,
        description="Share the rows of the item table, and of an untied output, out over the processes of a launch, "
        "each with its part of the optimiser's state; for a sampled softmax.",
    )

    @property
    def few_shapes(self) -> bool:
        """Whether batches come in few shapes. The device has no say: resumed elsewhere, the batches are the same."""
        return self.compile if self.static_shapes == "auto" else self.static_shapes


@dataclass(frozen=True)
class Step:
    """One batch: windows `[start, stop)` of the histories `row`, longest first, and its number within the epoch.

    With a `shape` it is padded to so many users and targets a user.
    """

    epoch: int
    number: int
    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]
    shape: Shape | None = None


@dataclass(frozen=True)
class Piece:
    """Some windows of a step, and after how many events of each TCL stands (0: nowhere); `shape` as in a step.

    One that is not `counted` is part of another one, and computed again without weight. `negatives` are those that
    the step has for its windows.
    """

    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]
    cuts: NDArray[np.int64]
    shape: Shape | None = None
    counted: bool = True
    negatives: SharedNegatives | None = None


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
        self.rows = encoder.config.vocab_size
        self.sampled = objective.sampled(self.rows)
        self._negatives = StepNegatives(train, objective=objective, rows=self.rows) if self.sampled else None
        encoder.sparse_rows = row_updates(settings, rows=self.rows, sampled=self.sampled) is not None
        if settings.shard_tables:
            shard_tables(encoder, sampled=self.sampled)
        self._watched = np.sort(users[: settings.validation_users])
        self._rungs: NDArray[np.int64] | None = None
        if settings.few_shapes:
            # windows move from epoch to epoch: the longest of all need not be one of epoch 0
            longest = max(min(encoder.config.max_length, int(train.lengths.max(initial=0)) - 1), 1)
            self._rungs = ladder(self._windows(0).lengths - 1, longest=longest)
        if not self.steps(0):
            raise DataError("No training history has two events, so there is no next item to learn from.")

    def plan(self) -> list[str]:
        """In words: which softmax and which update of the item table the catalogue gets, and why."""
        told = [
            self._objective.describe(self.rows),
            describe_table_update(self._settings, rows=self.rows, sampled=self.sampled),
        ]
        return [*told, describe_sharding(self.model)] if self._settings.shard_tables else told

    def steps(self, epoch: int) -> Sequence[Step]:
        """The batches of an epoch, a pure function of the seed and the epoch."""
        found, seed = self._windows(epoch), self._settings.seed
        pairs, most = found.lengths - 1, self._positions
        if self._rungs is None:
            batches = [(None, batch) for batch in plan(pairs, positions=most, seed=seed, epoch=epoch)]
        else:
            batches = plan_shapes(pairs, rungs=self._rungs, positions=most, seed=seed, epoch=epoch)
        return [
            Step(epoch, number, found.row[batch], found.start[batch], found.stop[batch], shape)
            for number, (shape, batch) in enumerate(batches)
        ]

    def num_targets(self, step: Step) -> int:
        """Pairs of an event and the next one, and one more for each TCL row."""
        return _targets(step.start, step.stop, self._cuts(step))

    def weight(self, step: Step) -> float:
        """Each target weighs the same."""
        return self.num_targets(step)

    def pieces(self, step: Step, *, part: int, parts: int) -> Sequence[Piece]:
        """What a process computes of a step; every `parts`-th window, so that lengths are alike in all processes.

        Where tables are sharded all processes get as many pieces, since each of these takes all of them.
        """
        cuts, negatives = self._cuts(step), self._drawn(step)
        shape, runs = self._division(step, cuts, part=part, parts=parts)

        def piece(chosen: NDArray[np.integer], *, counted: bool = True) -> Piece:
            size = 0 if shape is None else shape.users
            own = None if negatives is None else negatives.of(chosen, size=size)
            return Piece(step.row[chosen], step.start[chosen], step.stop[chosen], cuts[chosen], shape, counted, own)

        found = [piece(chosen) for chosen in runs]
        if self._settings.shard_tables:
            most = max(len(self._division(step, cuts, part=other, parts=parts)[1]) for other in range(parts))
            shortest = np.array([len(step.row) - 1])
            found += [piece(shortest, counted=False)] * (most - len(found))
        return found

    def _division(
        self, step: Step, cuts: NDArray[np.int64], *, part: int, parts: int
    ) -> tuple[Shape | None, list[NDArray[np.integer]]]:
        """The windows of each piece of a process, and the shape of a piece."""
        own = np.arange(part, len(step.row), parts)
        lengths = (step.stop - step.start - 1 + (cuts > 0))[own]
        limit = micro_batch(self.model, self._settings)
        if step.shape is None:
            shape, runs = None, cut(lengths, positions=limit)
        else:
            shape = divide(step.shape, parts=parts, positions=limit)
            runs = [slice(first, first + shape.users) for first in range(0, len(own), shape.users)]
        return shape, [own[few] for few in runs]

    def batch(self, piece: Piece) -> NextItemBatch:
        """Inputs and targets of a piece."""
        flat, lengths = self._train.gather(piece.row, piece.start, piece.stop)
        if piece.shape is None:
            batch = next_item_batch(pad(flat, lengths), lengths, cuts=piece.cuts)
        else:
            empty = (0, piece.shape.users - len(lengths))
            cuts = np.pad(piece.cuts, empty)
            # a TCL row widens a batch by one; where one may come, batches without are as wide
            spare = int(self._objective.tcl_rate > 0 and not cuts.any())
            events = pad(flat, lengths, users=piece.shape.users, width=piece.shape.length + 1 + spare)
            batch = next_item_batch(events, np.pad(lengths, empty), cuts=cuts).everywhere()
        return batch if piece.negatives is None else batch.among(piece.negatives)

    def loss(self, piece: Piece, device: torch.device) -> tuple[Tensor, float]:
        """Mean cross-entropy of a piece and its number of targets."""
        targets = _targets(piece.start, piece.stop, piece.cuts) if piece.counted else 0
        return next_item_loss(self.model, self.batch(piece).to(device)), targets

    def _windows(self, epoch: int) -> Windows:
        return windows(
            self._train.lengths, max_length=self.model.config.max_length, seed=self._settings.seed, epoch=epoch
        )

    def _cuts(self, step: Step) -> NDArray[np.int64]:
        rng = np.random.default_rng((self._settings.seed, step.epoch, 2, step.number))
        return tcl_cuts(step.stop - step.start, rate=self._objective.tcl_rate, rng=rng)

    def _drawn(self, step: Step) -> SharedNegatives | None:
        if self._negatives is None:
            return None
        rng = np.random.default_rng((self._settings.seed, step.epoch, 4, step.number))
        return self._negatives.draw(rng, row=step.row, start=step.start, stop=step.stop, padded=step.shape is not None)

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


def _targets(start: NDArray[np.integer], stop: NDArray[np.integer], cuts: NDArray[np.int64]) -> int:
    return int((stop - start - 1).sum()) + int(np.count_nonzero(cuts))
