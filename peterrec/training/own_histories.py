"""Training examples that each read a history of their own; what of these stands still is computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import cut, groups, plan
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples
from peterrec.data.upload import upload
from peterrec.inference import POSITIONS
from peterrec.ranking_model import RankingModel
from peterrec.ranking_recipe import RankingTask
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.micro_batch import micro_batch
from peterrec.training.standing_states import StandingStates
from peterrec.training.standing_users import StandingUsers
from peterrec.training.target_events import TargetEvents

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class RankingStep:
    """One batch: target events `(B,)` of the paired logs, and its number within the epoch."""

    epoch: int
    number: int
    events: Ints


class OwnHistories:
    """The examples of a training of `model`, each with the history before it: any encoder, any readout.

    An epoch has at most `task.positives` random target events of each user of `train`, drawn anew. The vectors or
    states that no step changes are computed once for each different history, as far as `settings.cache_mb` goes.
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
    ):
        self._model = model
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
        self.events = self.targets.events
        self.standing = StandingUsers(
            model,
            self.targets.histories,
            parts={"train": self.targets.train, "validation": self.targets.validation},
            max_length=max_length,
            cache_mb=settings.cache_mb,
        )
        vectors = len(self.targets.histories) * len(model.reader.layers) * model.config.hidden_size
        self._vector_bytes = vectors * model.base_encoder.dtype.itemsize
        self.keeps_vectors = self.standing.keeps_vectors and self._vector_bytes <= settings.cache_mb * 2**20
        self.keeps_states = self.standing.keeps_states

    def steps(self, epoch: int) -> Sequence[RankingStep]:
        """The batches of an epoch; histories of similar length stand together."""
        events = self.targets.draw(epoch)
        batches = groups(self._lengths(events), users=self._settings.users, seed=self._settings.seed, epoch=epoch)
        return [RankingStep(epoch, number, events[batch]) for number, batch in enumerate(batches)]

    def cuts(self, step: RankingStep, *, part: int, parts: int) -> list[tuple[Ints, Ints]]:
        """The examples of each piece of process `part`, and the histories that `vectors` reads for them."""
        own = np.arange(part, len(step.events), parts)  # every so many, since similar lengths stand together
        if not len(own):
            return []
        model = self._model
        limit = None if self.keeps_vectors else micro_batch(model, self._settings, encoder=model.base_encoder)
        pieces = [own[few] for few in cut(self._lengths(step.events[own]), positions=limit)]
        return [(piece, self.targets.history_of(step.events[piece])) for piece in pieces]

    def vectors(self, histories: Ints, device: torch.device) -> Tensor:
        """User vectors `(B, D)` of training histories `(B,)`."""
        model = self._model
        if self.keeps_vectors:
            places = upload(torch.from_numpy(histories), device)
            return model.vectors_of_pooled(self.standing.pooled("train", device).index_select(0, places))
        if self.keeps_states:
            return self._from_states(self.standing.states("train", device), histories)
        rows = model.reading(self._max_length).rows(self.targets.histories, self.targets.train[histories])
        places = None if rows.places is None else upload(torch.from_numpy(rows.places), device)
        return model.vectors_of_pooled(model.pooled_users(upload(torch.from_numpy(rows.ids), device), places=places))

    @torch.no_grad()
    def kept_queries(self, device: torch.device) -> Tensor | None:
        """Queries `(n, D)` of the validation examples from what is kept; None where nothing is."""
        head = self._model.head
        if self.keeps_vectors:
            return head.query(self._model.vectors_of_pooled(self.standing.pooled("validation", device)))
        if not self.keeps_states:
            return None
        kept = self.standing.states("validation", device)
        batches = plan(kept.lengths, positions=POSITIONS.get(device.type, 2**18), shuffle=False)
        found = torch.cat([head.query(self._from_states(kept, batch)) for batch in batches])
        order = torch.from_numpy(np.argsort(np.concatenate(batches))).to(device)
        return found.index_select(0, order)

    def plan(self) -> str:
        """In words: what is computed once, and what in each step."""
        few, many = len(self.targets.train), len(self.events)
        if self.standing.keeps_vectors and not self.keeps_vectors:
            size = f"{self._vector_bytes / 2**20:,.1f} MiB"
            return (
                f"Nothing in the encoder trains, but the vectors of {few:,} histories take {size}, more than "
                f"cache_mb = {self._settings.cache_mb}: each step computes them again, without gradients."
            )
        return f"{self.standing.plan()} {many:,} target events have {few:,} different histories."

    def _lengths(self, events: Ints) -> Ints:
        return np.minimum(self.targets.histories.lengths[self.targets.history_of(events)], self._max_length)

    def _from_states(self, kept: StandingStates, users: NDArray[np.integer]) -> Tensor:
        batch = kept.batch(users)
        return self._model.vectors_of_states(
            batch.states, batch.valid, first_block=kept.blocks, input_ids=batch.input_ids, places=batch.places
        )
