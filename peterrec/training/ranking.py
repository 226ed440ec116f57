"""Training a ranking model on the target events of users, as a program for the training loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import cut, groups, plan
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples
from peterrec.data.upload import upload
from peterrec.errors import DataError
from peterrec.inference import POSITIONS, encode
from peterrec.metrics.ranking import Histories, rank_targets, ranking_metrics
from peterrec.ranking_model import RankingModel
from peterrec.ranking_recipe import RankingTask
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.micro_batch import micro_batch
from peterrec.training.ranking_loss import Drawn, OwnNegatives, RankingLoss
from peterrec.training.standing_states import StandingStates
from peterrec.training.standing_users import StandingUsers
from peterrec.training.table_update import update_read_rows
from peterrec.training.target_events import TargetEvents

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RankingStep:
    """One batch: target events `(B,)` of the paired logs, and its number within the epoch."""

    epoch: int
    number: int
    events: Ints


@dataclass(frozen=True)
class RankingPiece:
    """Some events of a step, and the negatives that they are held against."""

    events: Ints
    drawn: Drawn


class RankingProgram:
    """Ranks the target of each example above other items, watched by a ranking metric on the validation examples.

    An epoch has at most `task.positives` random target events of each training user, drawn anew. What stands still is
    computed once, as in `ClassificationProgram`: here for each different history, as far as `settings.cache_mb` goes.
    `note` is told which it is.

    Raises DataError where no training user has a target event that can be predicted, or no validation example is left.
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
        self.targets = TargetEvents(
            pairs,
            train,
            validation=validation.events,
            history=task.history,
            most=task.positives,
            fewest_source=task.fewest_source,
            seed=settings.seed,
            epochs=settings.epochs,
        )
        for name, found in (("training", self.targets.events), ("validation", validation.events)):
            if not len(found):
                raise DataError(
                    f"{pairs.folder}: no {name} user has a target event with {task.fewest_source} or more source "
                    "events before it; take more users, or a smaller fewest_source."
                )
        self._loss = RankingLoss(pairs, train, counts=self.targets.counts, kind=task.loss, negatives=task.num_negatives)
        self.standing = StandingUsers(
            model,
            self.targets.histories,
            parts={"train": self.targets.train, "validation": self.targets.validation},
            max_length=max_length,
            cache_mb=settings.cache_mb,
        )
        vectors = len(self.targets.histories) * len(model.reader.layers) * model.config.hidden_size
        size = vectors * model.base_encoder.dtype.itemsize
        self.keeps_vectors = self.standing.keeps_vectors and size <= settings.cache_mb * 2**20
        self.keeps_states = self.standing.keeps_states
        of_rows = update_read_rows(model.base_encoder, settings)
        if note is not None:
            note(self._plan(size))
            if of_rows is not None:
                note(of_rows)

    def steps(self, epoch: int) -> Sequence[RankingStep]:
        """The batches of an epoch; histories of similar length stand together."""
        events = self.targets.draw(epoch)
        batches = groups(self._lengths(events), users=self._settings.users, seed=self._settings.seed, epoch=epoch)
        return [RankingStep(epoch, number, events[batch]) for number, batch in enumerate(batches)]

    def num_targets(self, step: RankingStep) -> int:
        """The examples of a step."""
        return len(step.events)

    def weight(self, step: RankingStep) -> float:
        """The examples of a step: all weigh the same."""
        return len(step.events)

    def pieces(self, step: RankingStep, *, part: int, parts: int) -> Sequence[RankingPiece]:
        """What a process computes of a step: every `parts`-th example, since similar lengths stand together."""
        rng = np.random.default_rng((self._settings.seed, 31, step.epoch, step.number))
        drawn = self._loss.draw(rng, self._pairs.owner[step.events])
        own = np.arange(part, len(step.events), parts)
        if not len(own):
            return []
        limit = None if self.keeps_vectors else micro_batch(self.model, self._settings, encoder=self.model.base_encoder)
        cuts = cut(self._lengths(step.events[own]), positions=limit)
        return [RankingPiece(step.events[own[few]], _some(drawn, own[few])) for few in cuts]

    def loss(self, piece: RankingPiece, device: torch.device) -> tuple[Tensor, float]:
        """Mean loss of a piece, and how many examples it has."""
        vectors = self._vectors(self.targets.history_of(piece.events), device)
        wanted = self._loss.candidates(self._pairs.item[piece.events])
        head = self.model.head
        return self._loss(head, head.query(vectors), wanted, piece.drawn), len(piece.events)

    def validate(self) -> dict[str, float]:
        """The watched metric, hr@10, ndcg@10 and mrr of the validation users: means over the examples of each."""
        device = next(self.model.parameters()).device
        events, head = self._checked.events, self.model.head
        ranks = rank_targets(
            self._validation_queries(device),
            head.score_table(),
            torch.from_numpy(self._pairs.item[events].astype(np.int64)).to(device),
            bias=head.bias,
            histories=shown_targets(self._pairs, events) if self._task.history == "mixed" else None,
        )
        values = ranking_metrics(ranks)
        users, counts = np.unique(self._pairs.owner[events], return_inverse=True, return_counts=True)[1:]
        names = dict.fromkeys((self.metric, "hr@10", "ndcg@10", "mrr"))
        return {name: float((np.bincount(users, weights=values[name]) / counts).mean()) for name in names}

    def _lengths(self, events: Ints) -> Ints:
        return np.minimum(self.targets.histories.lengths[self.targets.history_of(events)], self._max_length)

    def _vectors(self, histories: Ints, device: torch.device) -> Tensor:
        """User vectors `(B, D)` of training histories."""
        model = self.model
        if self.keeps_vectors:
            places = upload(torch.from_numpy(histories), device)
            return model.vectors_of_pooled(self.standing.pooled("train", device).index_select(0, places))
        if self.keeps_states:
            return self._from_states(self.standing.states("train", device), histories)
        rows = model.reading(self._max_length).rows(self.targets.histories, self.targets.train[histories])
        places = None if rows.places is None else upload(torch.from_numpy(rows.places), device)
        return model.vectors_of_pooled(model.pooled_users(upload(torch.from_numpy(rows.ids), device), places=places))

    def _from_states(self, kept: StandingStates, users: NDArray[np.integer]) -> Tensor:
        batch = kept.batch(users)
        return self.model.vectors_of_states(
            batch.states, batch.valid, first_block=kept.blocks, input_ids=batch.input_ids, places=batch.places
        )

    @torch.no_grad()
    def _validation_queries(self, device: torch.device) -> Tensor:
        """Queries `(n, D)` of the validation examples; the model is in evaluation mode."""
        head = self.model.head
        if self.keeps_vectors:
            return head.query(self.model.vectors_of_pooled(self.standing.pooled("validation", device)))
        if not self.keeps_states:
            return queries(
                self.model,
                self._pairs,
                self._checked,
                history=self._task.history,
                max_length=self._max_length,
                device=device,
            )
        kept = self.standing.states("validation", device)
        batches = plan(kept.lengths, positions=POSITIONS.get(device.type, 2**18), shuffle=False)
        found = torch.cat([head.query(self._from_states(kept, batch)) for batch in batches])
        order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(device)
        return found.index_select(0, order)

    def _plan(self, size: int) -> str:
        few, many = len(self.targets.train), len(self.targets.events)
        if self.standing.keeps_vectors and not self.keeps_vectors:
            return (
                f"Nothing in the encoder trains, but the vectors of {few:,} histories take {size / 2**20:,.1f} MiB, "
                f"more than cache_mb = {self._settings.cache_mb}: each step computes them again, without gradients."
            )
        return f"{self.standing.plan()} {many:,} target events have {few:,} different histories."


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


def shown_targets(pairs: PairedLogs, events: Ints) -> Histories:
    """The target rows that the user of each of `events` (n,) had before it, and how many."""
    first = pairs.starts[pairs.owner[events]]
    counts = events - first
    ends = np.cumsum(counts)
    places = np.arange(int(counts.sum())) + np.repeat(first - (ends - counts), counts)
    return pairs.item[places], counts


def _some(drawn: Drawn, examples: Ints) -> Drawn:
    """The negatives of some examples of a step."""
    return OwnNegatives(drawn.items[examples], drawn.real[examples]) if isinstance(drawn, OwnNegatives) else drawn
