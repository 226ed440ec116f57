"""Training examples that share the pass over a window of their user's history, as in pretraining."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import cut, groups, pad
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import choose_events
from peterrec.data.upload import upload
from peterrec.ranking_model import RankingModel
from peterrec.ranking_recipe import RankingTask
from peterrec.training.finetuning import FinetuningSettings
from peterrec.training.micro_batch import micro_batch
from peterrec.training.own_histories import RankingStep

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class WindowStep(RankingStep):
    """One batch: events `[start, stop)` of the histories of `users`, each `(U,)`; the target events `(B,)` lie in the
    windows `rows` `(B,)` and are predicted from their events up to the positions `places` `(B,)`."""

    users: Ints
    start: Ints
    stop: Ints
    rows: Ints
    places: Ints


def windows_fit(model: RankingModel) -> bool:
    """Whether the state at a position is the user vector of what came up to it: causal, read at the last position."""
    reader = model.reader
    return model.base_encoder.config.causal and reader.kind == "last" and reader.reads_top_alone


class SharedWindows:
    """The examples of a training of `model`, those of a window of a user's history read from one pass over it.

    For encoders that `windows_fit`. An epoch has one window of at most `max_length` events of each user of `train`: the
    whole history, or of a longer one the events before a random target event; and at most `task.positives` random
    target events whose last event before them lies in it. So an example may see fewer events before it than in
    prediction, as in the pretraining of a causal encoder, and an epoch costs a pass a user, however many examples.
    """

    def __init__(
        self,
        model: RankingModel,
        *,
        pairs: PairedLogs,
        task: RankingTask,
        train: Ints,
        max_length: int,
        settings: FinetuningSettings,
    ):
        self._model = model
        self._pairs = pairs
        self._most = task.positives
        self._settings = settings
        self._mixed = task.history == "mixed"
        self.max_length = min(max_length, model.reading(max_length).window or max_length)
        self.events = choose_events(pairs, train, which="all", fewest_source=task.fewest_source)
        owner = pairs.owner[self.events]
        self._users, self._first = np.unique(owner, return_index=True)
        self._counts = np.diff(np.append(self._first, len(owner)))
        self._before = (pairs.place if self._mixed else pairs.before)[self.events].astype(np.int64)

    def steps(self, epoch: int) -> Sequence[WindowStep]:
        """The batches of an epoch, of `settings.users` windows; those of similar length stand together."""
        seed = self._settings.seed
        rng = np.random.default_rng((seed, 37, epoch))
        longest = self._before[self._first + self._counts - 1]
        chosen = self._before[self._first + (rng.random(len(self._users)) * self._counts).astype(np.int64)]
        stop = np.where(longest > self.max_length, chosen, longest)
        start = np.maximum(stop - self.max_length, 0)
        window = np.repeat(np.arange(len(self._users)), self._counts)
        inside = np.flatnonzero((self._before > start[window]) & (self._before <= stop[window]))
        inside = inside[np.lexsort((rng.random(len(inside)), window[inside]))]
        number = np.arange(len(inside)) - np.searchsorted(window[inside], window[inside])
        drawn = np.sort(inside[number < self._most])
        first = np.searchsorted(window[drawn], np.arange(len(self._users) + 1))
        steps = []
        for batch in groups(stop - start, users=self._settings.users, seed=seed, epoch=epoch):
            counts = np.diff(first)[batch]
            rows = np.repeat(np.arange(len(batch)), counts)
            at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + first[batch][rows]
            places = self._before[drawn[at]] - 1 - start[batch][rows]
            steps.append(
                WindowStep(
                    epoch,
                    len(steps),
                    self.events[drawn[at]],
                    self._users[batch],
                    start[batch],
                    stop[batch],
                    rows,
                    places,
                )
            )
        return steps

    def cuts(self, step: WindowStep, *, part: int, parts: int) -> list[tuple[Ints, WindowStep]]:
        """The examples of each piece of process `part`, and the windows that `vectors` reads for them."""
        own = np.arange(part, len(step.users), parts)  # every so many, since similar lengths stand together
        if not len(own):
            return []
        limit = micro_batch(self._model, self._settings, encoder=self._model.base_encoder)
        return [_piece(step, own[few]) for few in cut((step.stop - step.start)[own], positions=limit)]

    def vectors(self, windows: WindowStep, device: torch.device) -> Tensor:
        """User vectors `(B, D)` of the examples of a piece."""
        pairs, model = self._pairs, self._model
        flat, lengths = (pairs.mixed if self._mixed else pairs.sources).gather(
            windows.users, windows.start, windows.stop
        )
        ids = pad(flat, lengths)
        states = model.states(upload(torch.from_numpy(ids), device))
        at = upload(torch.from_numpy(windows.rows * ids.shape[1] + windows.places), device)
        read = states.reshape(-1, states.shape[2]).index_select(0, at)
        return model.vectors_of_pooled(read.unsqueeze(1))

    def kept_queries(self, device: torch.device) -> Tensor | None:
        """None: nothing is kept."""
        return None

    def plan(self) -> str:
        """In words: what is computed in each step."""
        trains = "" if not self._model.encoder_stands else ", without gradients, since nothing in the encoder trains"
        return (
            f"{len(self.events):,} target events of {len(self._users):,} users: those of a window of "
            f"{self.max_length:,} events share one pass over it{trains}."
        )


def _piece(step: WindowStep, windows: Ints) -> tuple[Ints, WindowStep]:
    """The examples of some windows of a step, and these windows alone."""
    number = np.full(len(step.users), -1)
    number[windows] = np.arange(len(windows))
    examples = np.flatnonzero(number[step.rows] >= 0)
    alone = WindowStep(
        step.epoch,
        step.number,
        step.events[examples],
        step.users[windows],
        step.start[windows],
        step.stop[windows],
        number[step.rows[examples]],
        step.places[examples],
    )
    return examples, alone
