"""Trials: trainings of contestants in one arena, each resumable, and what the finished ones came to."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from peterrec.atomic import remove
from peterrec.baselines.majority import Majority
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import DivergedError
from peterrec.evaluation.arena import Arena
from peterrec.model import TaskModel
from peterrec.run_folder import RunFolder
from peterrec.task_run import TaskFacts, save_task
from peterrec.training.checkpoint import commit, load_latest
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracking import Prefixed, Tracker
from peterrec.transfer import Contestant, Fitted, fit

_PROBABILITIES, _DIVERGED = "probabilities", "diverged"


@dataclass(frozen=True)
class Trial:
    """One training: a contestant on the split of a seed, at a learning rate (None: that of its recipe)."""

    contestant: Contestant
    seed: int
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """What its folder is called."""
        rate = "" if self.learning_rate is None else f"-rate-{self.learning_rate!r}"
        return f"{self.contestant.name}-seed-{self.seed}{rate}"


class Trials:
    """Trains contestants one after the other on the splits of `arena`; an interrupted run goes on in `folder`.

    What a finished trial came to stays in the folder until the run is finished, its checkpoints go at once. The
    tracker gets all trials, on steps that never fall.
    """

    def __init__(self, arena: Arena, *, folder: RunFolder, tracker: Tracker, progress: Mode) -> None:
        self.arena = arena
        self._folder = folder
        self._tracker = tracker
        self._progress: Mode = progress
        self._after = 0
        self._sizes: dict[str, int] = {}

    def run(self, trial: Trial, *, keep_model: bool = False) -> Fitted:
        """Trains, or reads what an earlier process found; with `keep_model` the model is among it.

        The size of the file is measured on the first trial of each contestant. Raises DivergedError, also where an
        earlier process saw the trial diverge.
        """
        place = self._folder.checkpoints / "finished" / trial.name
        found = None if keep_model else self._read(place)
        if found is None:
            found = self._train(trial, place, keep_model=keep_model)
        else:
            remove(self._checkpoints(trial))  # the process may have been killed before it came to that
            self._after += found.history[-1]["step"] + 1  # which it has logged
        if found.adapter_bytes is not None:
            self._sizes[trial.contestant.name] = found.adapter_bytes
        return found

    def each_seed(self, contestant: Contestant, *, keep_first: bool = False) -> dict[int, Fitted]:
        """A contestant at its recipe's rate for every seed; `keep_first` keeps the model of the first one."""
        first = self.arena.plan.seeds[0]
        return {
            seed: self.run(Trial(contestant, seed), keep_model=keep_first and seed == first)
            for seed in self.arena.plan.seeds
        }

    def facts(self, contestant: Contestant, *, seed: int) -> TaskFacts:
        """What is recorded of a contestant's model beside its weights."""
        arena = self.arena
        labels = arena.attribute.labels[arena.splits[seed].train]
        prior = Majority.fit(labels, num_classes=len(arena.attribute.classes)).shares
        return TaskFacts(
            task=arena.plan.task,
            adapter=contestant.adapter,
            classes=arena.attribute.classes,
            prior=tuple(prior.tolist()),
            encoder_revision=self._encoder_revision,
            vocabulary_fingerprint=arena.prepared.vocabulary.fingerprint,
        )

    @cached_property
    def _encoder_revision(self) -> str:
        return encoder_revision(self.arena.plan.encoder)

    def _checkpoints(self, trial: Trial) -> Path:
        return self._folder.checkpoints / trial.name

    def _read(self, place: Path) -> Fitted | None:
        """What `_write` wrote; None where nothing whole is there. Raises DivergedError where that is what was found."""
        kept = load_latest(place)
        if kept is None:
            return None
        if _DIVERGED in kept.facts:
            self._after += kept.facts["last"] + 1  # steps that an earlier process has logged
            raise DivergedError(kept.facts[_DIVERGED])
        return Fitted(model=None, probabilities=kept.tensors[_PROBABILITIES].numpy(), **kept.facts)

    def _train(self, trial: Trial, place: Path, *, keep_model: bool) -> Fitted:
        contestant, plan = trial.contestant, self.arena.plan
        checkpoints = self._checkpoints(trial)
        rate = "" if trial.learning_rate is None else f", learning rate {trial.learning_rate:g}"
        tracked = "" if trial.learning_rate is None else f"/rate-{trial.learning_rate:g}"
        tracker = Prefixed(self._tracker, prefix=f"{contestant.name}{tracked}/seed-{trial.seed}", after=self._after)
        try:
            fitted = fit(
                contestant,
                encoder_folder=plan.encoder,
                task=plan.task,
                settings=plan.settings(contestant.adapter, seed=trial.seed, learning_rate=trial.learning_rate),
                histories=self.arena.prepared.sequences("histories"),
                attribute=self.arena.attribute,
                split=self.arena.splits[trial.seed],
                checkpoints=checkpoints,
                metrics_file=None,
                tracker=tracker,
                progress=Progress(self._progress, title=f"{contestant.name}, seed {trial.seed}{rate}"),
                keep_model=True,
            )
        except DivergedError as problem:
            told = f"{contestant.name}, seed {trial.seed}{rate}: {problem}"
            commit(place, step=0, tensors={}, facts={_DIVERGED: told, "last": tracker.last - self._after})
            remove(checkpoints)
            raise DivergedError(told) from None
        finally:
            self._after = tracker.last + 1
        assert fitted.model is not None
        if contestant.name not in self._sizes:  # it is the same for all of a contestant's
            self._sizes[contestant.name] = self._file_size(fitted.model, trial)
        fitted = replace(fitted, adapter_bytes=self._sizes[contestant.name])
        if keep_model:
            return fitted  # read from its checkpoint when the run goes on
        fitted = replace(fitted, model=None)
        _write(place, fitted)
        remove(checkpoints)
        return fitted

    def _file_size(self, model: TaskModel, trial: Trial) -> int:
        """Bytes of the weights as they are handed on, measured on the file itself."""
        with TemporaryDirectory(dir=self._folder.checkpoints) as temporary:
            folder = Path(temporary)
            save_task(model, folder=folder, facts=self.facts(trial.contestant, seed=trial.seed))
            return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _write(place: Path, fitted: Fitted) -> None:
    facts: dict[str, Any] = {key: value for key, value in vars(fitted).items() if key not in ("model", _PROBABILITIES)}
    commit(
        place,
        step=fitted.history[-1]["step"],
        tensors={_PROBABILITIES: torch.from_numpy(fitted.probabilities)},
        facts=facts,
    )
