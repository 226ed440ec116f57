"""Training a ranking model on the target events of users, as a program for the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples
from peterrec.data.target_events import earlier_targets, target_counts
from peterrec.errors import DataError, SettingsError
from peterrec.inference import encode
from peterrec.metrics.ranking import rank_targets, ranking_metrics
from peterrec.ranking_model import RankingModel
from peterrec.ranking_recipe import RankingTask
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.own_histories import OwnHistories, RankingStep
from peterrec.training.ranking_loss import Drawn, OwnNegatives, RankingLoss
from peterrec.training.shared_windows import SharedWindows, windows_fit
from peterrec.training.table_update import update_read_rows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RankingPiece:
    """Some events `(B,)` of a step, what is read for them, and the negatives that they are held against."""

    events: Ints
    reads: Ints | RankingStep
    drawn: Drawn


class RankingProgram:
    """Ranks the target of each example above other items, watched by a ranking metric on the validation examples.

    `reads` says what an epoch's examples are and what is read for them: windows that examples share where
    `task.windows` asks for it, or by default where they fit the model; else a history each. `note` is told which it is.

    Raises DataError where no training user has a target event that can be predicted, or no validation example is left,
    and SettingsError where windows do not fit the model.
    """

    def __init__(
        self,
        model: RankingModel,
        *,
        pairs: PairedLogs,
        task: RankingTask,
        train: Ints,
        validation: Examples,
        max_length: int,
        settings: FinetuningSettings,
        note: Callable[[str], object] | None = None,
    ):
        self.model = model
        self.metric: str = task.metric
        self._pairs = pairs
        self._task = task
        self._checked = validation
        self._max_length = max_length
        self._settings = settings
        self.reads: OwnHistories | SharedWindows
        if _shared(model, task):
            self.reads = SharedWindows(
                model, pairs=pairs, task=task, train=train, max_length=max_length, settings=settings
            )
        else:
            self.reads = OwnHistories(
                model,
                pairs=pairs,
                task=task,
                train=train,
                validation=validation,
                max_length=max_length,
                settings=settings,
            )
        for name, found in (("training", self.reads.events), ("validation", validation.events)):
            if not len(found):
                raise DataError(
                    f"{pairs.folder}: no {name} user has a target event with {task.fewest_source} or more source "
                    "events before it; take more users, or a smaller fewest_source."
                )
        counts = target_counts(pairs, train)
        self._loss = RankingLoss(pairs, train, counts=counts, kind=task.loss, negatives=task.num_negatives)
        of_rows = update_read_rows(model.base_encoder, settings)
        if note is not None:
            note(self.reads.plan())
            if of_rows is not None:
                note(of_rows)

    def steps(self, epoch: int) -> Sequence[RankingStep]:
        """The batches of an epoch."""
        return self.reads.steps(epoch)

    def num_targets(self, step: RankingStep) -> int:
        """The examples of a step."""
        return len(step.events)

    def weight(self, step: RankingStep) -> float:
        """The examples of a step: all weigh the same."""
        return len(step.events)

    def pieces(self, step: RankingStep, *, part: int, parts: int) -> Sequence[RankingPiece]:
        """What a process computes of a step."""
        rng = np.random.default_rng((self._settings.seed, 31, step.epoch, step.number))
        drawn = self._loss.draw(rng, self._pairs.owner[step.events])
        cuts = self.reads.cuts(step, part=part, parts=parts)  # type: ignore[arg-type]  # the steps are its own
        return [RankingPiece(step.events[few], reads, _some(drawn, few)) for few, reads in cuts if len(few)]

    def loss(self, piece: RankingPiece, device: torch.device) -> tuple[Tensor, float]:
        """Mean loss of a piece, and how many examples it has."""
        vectors = self.reads.vectors(piece.reads, device)  # type: ignore[arg-type]
        wanted = self._loss.candidates(self._pairs.item[piece.events])
        head = self.model.head
        return self._loss(head, head.query(vectors), wanted, piece.drawn), len(piece.events)

    def validate(self) -> dict[str, float]:
        """The watched metric, hr@10, ndcg@10 and mrr of the validation users: means over the examples of each."""
        device = next(self.model.parameters()).device
        events, head = self._checked.events, self.model.head
        found = self.reads.kept_queries(device)
        if found is None:
            found = queries(
                self.model,
                self._pairs,
                self._checked,
                history=self._task.history,
                max_length=self._max_length,
                device=device,
            )
        ranks = rank_targets(
            found,
            head.score_table(),
            torch.from_numpy(self._pairs.item[events].astype(np.int64)).to(device),
            bias=head.bias,
            histories=earlier_targets(self._pairs, events) if self._task.history == "mixed" else None,
        )
        values = ranking_metrics(ranks)
        users, counts = np.unique(self._pairs.owner[events], return_inverse=True, return_counts=True)[1:]
        names = dict.fromkeys((self.metric, "hr@10", "ndcg@10", "mrr"))
        return {name: float((np.bincount(users, weights=values[name]) / counts).mean()) for name in names}


def _shared(model: RankingModel, task: RankingTask) -> bool:
    if task.windows and not windows_fit(model):
        raise SettingsError(
            f"task {task.name}: windows = true shares a pass among the target events of a user, each read from the "
            f"state before it: that takes a causal encoder and the readout last of its top layer, and this is a "
            f"{model.config.model_type.removeprefix('peterrec_')} encoder with the readout {model.reader.kind}. Leave "
            'windows out, or set readout = "last".'
        )
    return windows_fit(model) if task.windows is None else task.windows


def queries(
    model: RankingModel,
    pairs: PairedLogs,
    examples: Examples,
    *,
    history: str,
    max_length: int,
    device: torch.device,
) -> Tensor:
    """Queries `(n, D_out)` of examples, on `device`; with `model.head.scores` they are what ranks the catalogue."""
    was_training = model.training
    model.eval()
    try:
        found = encode(
            model.queries,
            examples.histories(pairs, history="mixed" if history == "mixed" else "source"),
            reading=model.reading(max_length),
            device=device,
        )
    finally:
        model.train(was_training)
    return found.to(device)


def _some(drawn: Drawn, examples: Ints) -> Drawn:
    """The negatives of some examples of a step."""
    return OwnNegatives(drawn.items[examples], drawn.real[examples]) if isinstance(drawn, OwnNegatives) else drawn
