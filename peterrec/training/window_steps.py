"""The position-level part of pretraining: windows of histories in batches, and the loss of a piece of one."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.data.batches import Windows, cut, pad, plan, windows
from peterrec.data.sequences import Sequences
from peterrec.data.shapes import Shape, divide, ladder, plan_shapes
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.objectives.gap_filling import GapFillingBatch, draw_gaps, gap_filling_batch
from peterrec.objectives.masked_item import draw_stand_ins, masked_item_batch
from peterrec.objectives.negatives import SharedNegatives
from peterrec.objectives.next_item import NextItemBatch, item_loss, next_item_batch, tcl_cuts
from peterrec.objectives.settings import ObjectiveSettings
from peterrec.objectives.step_negatives import StepNegatives
from peterrec.training.micro_batch import micro_batch
from peterrec.training.pretraining_settings import PretrainingSettings
from peterrec.training.step import Step

FEWEST_STEPS = 20  # an epoch; fewer would leave a small log's encoder untrained when patience ends


@dataclass(frozen=True)
class Piece:
    """Some windows of a step, and after how many events of each TCL stands (0: nowhere); `shape` as in a step.

    One that is not `counted` is part of another one, and computed again without weight. `negatives` are those that
    the step has for its windows, `taken` `(B, L)` the events that an objective takes out and what stands for them. The
    loss is multiplied by `scale`.
    """

    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]
    cuts: NDArray[np.int64]
    shape: Shape | None = None
    counted: bool = True
    negatives: SharedNegatives | None = None
    scale: float = 1.0
    taken: NDArray[np.int64] | None = None


class WindowSteps:
    """The windows of `train` in batches, and the loss of the one objective that looks at positions.

    Whatever is random in a step is drawn for the step as a whole. Raises DataError where no history has two events.
    """

    def __init__(
        self,
        encoder: UserEncoder,
        *,
        train: Sequences,
        objective: ObjectiveSettings,
        settings: PretrainingSettings,
        negatives: StepNegatives | None,
    ) -> None:
        self._encoder = encoder
        self._train = train
        self._objective = objective
        self._settings = settings
        self._negatives = negatives
        (self.name,) = objective.position_level
        pairs = int(np.maximum(train.lengths - 1, 0).sum())
        self._positions = max(min(settings.positions, pairs // FEWEST_STEPS), encoder.config.max_length)
        self._latest: tuple[Step, tuple[NDArray[np.int64], NDArray[np.int64] | None]] | None = None
        self._rungs: NDArray[np.int64] | None = None
        if settings.few_shapes:
            # windows move from epoch to epoch: the longest of all need not be one of epoch 0
            longest = max(min(encoder.config.max_length, int(train.lengths.max(initial=0)) - 1), 1)
            self._rungs = ladder(self.windows(0).lengths - 1, longest=longest)
        if not self.steps(0):
            raise DataError("No training history has two events, so there is no next item to learn from.")

    def steps(self, epoch: int) -> list[Step]:
        """The batches of an epoch, a pure function of the seed and the epoch."""
        found, seed = self.windows(epoch), self._settings.seed
        pairs, most = found.lengths - 1, self._positions
        if self._rungs is None:
            batches = [(None, batch) for batch in plan(pairs, positions=most, seed=seed, epoch=epoch)]
        else:
            batches = plan_shapes(pairs, rungs=self._rungs, positions=most, seed=seed, epoch=epoch)
        return [
            Step(epoch, number, found.row[batch], found.start[batch], found.stop[batch], shape)
            for number, (shape, batch) in enumerate(batches)
        ]

    def count(self, step: Step | Piece) -> int:
        """How many positions have something to predict."""
        cuts, taken = self._draw(step) if isinstance(step, Step) else (step.cuts, step.taken)
        found = int((step.stop - step.start - 1).sum() if taken is None else np.count_nonzero(taken))
        # TCL stands for one of the events that are masked, but between those that are not
        return found if self.name == "masked_item" else found + int(np.count_nonzero(cuts))

    def pieces(self, step: Step, *, part: int, parts: int) -> list[Piece]:
        """What a process computes of a step; every `parts`-th window, so that lengths are alike in all processes.

        Where tables are sharded all processes get as many pieces, since each of these takes all of them.
        """
        (cuts, taken), negatives = self._draw(step), self._drawn_negatives(step)
        shape, runs = self._division(step, cuts, part=part, parts=parts)

        def piece(chosen: NDArray[np.integer], *, counted: bool = True) -> Piece:
            size = 0 if shape is None else shape.users
            own = None if negatives is None else negatives.of(chosen, size=size)
            return Piece(
                step.row[chosen],
                step.start[chosen],
                step.stop[chosen],
                cuts[chosen],
                shape,
                counted,
                own,
                taken=None if taken is None else taken[chosen],
            )

        found = [piece(chosen) for chosen in runs]
        if self._settings.shard_tables:
            most = max(len(self._division(step, cuts, part=other, parts=parts)[1]) for other in range(parts))
            shortest = np.array([len(step.row) - 1])
            found += [piece(shortest, counted=False)] * (most - len(found))
        return found

    def batch(self, piece: Piece) -> NextItemBatch:
        """Inputs and targets of a piece."""
        flat, lengths = self._train.gather(piece.row, piece.start, piece.stop)
        if piece.shape is None:
            batch = self._batch(piece, pad(flat, lengths), lengths, piece.cuts)
        else:
            empty = (0, piece.shape.users - len(lengths))
            # a TCL row widens a batch by one; where one may come, batches without are as wide
            spare = int(self.name != "masked_item" and self._objective.tcl_rate > 0 and not piece.cuts.any())
            events = pad(flat, lengths, users=piece.shape.users, width=piece.shape.length + 1 + spare)
            batch = self._batch(piece, events, np.pad(lengths, empty), np.pad(piece.cuts, empty)).everywhere()
        return batch if piece.negatives is None else batch.among(piece.negatives)

    def _batch(
        self, piece: Piece, events: NDArray[np.int64], lengths: NDArray[np.integer], cuts: NDArray[np.int64]
    ) -> NextItemBatch:
        if piece.taken is None:
            return next_item_batch(events, lengths, cuts=cuts, steps=self._objective.next_steps)
        if self.name == "masked_item":
            return masked_item_batch(events, lengths, stand_ins=piece.taken)
        return gap_filling_batch(events, lengths, gaps=piece.taken.astype(np.bool_), tcl=cuts > 0)

    def loss(self, model: nn.Module, piece: Piece, device: torch.device) -> Tensor:
        """The mean loss `()` of a piece; `model` is the encoder, or what calls it."""
        batch = self.batch(piece).to(device)
        if isinstance(batch, GapFillingBatch):
            output = model(batch.inputs, decoder_input_ids=batch.decoder_inputs)
        else:
            output = model(batch.inputs)
        return item_loss(self._encoder, output.last_hidden_state, batch)

    def windows(self, epoch: int) -> Windows:
        """The windows of an epoch."""
        return windows(
            self._train.lengths, max_length=self._encoder.config.max_length, seed=self._settings.seed, epoch=epoch
        )

    def _division(
        self, step: Step, cuts: NDArray[np.int64], *, part: int, parts: int
    ) -> tuple[Shape | None, list[NDArray[np.integer]]]:
        """The windows of each piece of a process, and the shape of a piece."""
        own = np.arange(part, len(step.row), parts)
        shorter = 0 if self.name == "masked_item" else 1 - (cuts > 0)
        lengths = (step.stop - step.start - shorter)[own]
        limit = micro_batch(self._encoder, self._settings)
        if step.shape is None:
            shape, runs = None, cut(lengths, positions=limit)
        else:
            shape = divide(step.shape, parts=parts, positions=limit)
            runs = [slice(first, first + shape.users) for first in range(0, len(own), shape.users)]
        return shape, [own[few] for few in runs]

    def _draw(self, step: Step) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """After how many events of each window TCL stands (0: nowhere), and what is taken out of the windows."""
        if self._latest is not None and self._latest[0] is step:
            return self._latest[1]
        objective, lengths = self._objective, step.stop - step.start
        rng = np.random.default_rng((self._settings.seed, step.epoch, 2, step.number))
        if self.name == "next_item":
            drawn = tcl_cuts(lengths, rate=objective.tcl_rate, rng=rng), None
        else:
            # there TCL stands for the last event, or before it where nobody sees it
            tcl = rng.random(len(lengths)) < objective.tcl_rate
            cuts = np.where(tcl, lengths - 1, 0).astype(np.int64)
            drawn = cuts, self._taken(lengths, tcl, rng)
        self._latest = step, drawn
        return drawn

    def _taken(
        self, lengths: NDArray[np.integer], tcl: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        objective = self._objective
        if self.name == "gap_filling":
            return draw_gaps(lengths, rng=rng, rate=objective.gap_rate).astype(np.int64)
        return draw_stand_ins(
            lengths,
            vocab_size=self._encoder.config.vocab_size,
            rng=rng,
            rate=objective.mask_rate,
            last_rate=objective.last_rate,
            tcl=tcl,
        )

    def _drawn_negatives(self, step: Step) -> SharedNegatives | None:
        if self._negatives is None:
            return None
        rng = np.random.default_rng((self._settings.seed, step.epoch, 4, step.number))
        return self._negatives.draw(rng, row=step.row, start=step.start, stop=step.stop, padded=step.shape is not None)
