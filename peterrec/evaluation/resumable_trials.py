"""Trainings of contestants, one after the other, each resumable; what the finished ones came to is kept."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from peterrec.atomic import remove
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import DivergedError
from peterrec.evaluation.training_plan import TrainingPlan
from peterrec.run_folder import RunFolder
from peterrec.training.checkpoint import Checkpoint, commit, load_latest
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracking import Prefixed, Tracker
from peterrec.transfer import Contestant, Trained

_DIVERGED = "diverged"


class Planned(Protocol):
    """The data of a plan, with the splits."""

    @property
    def plan(self) -> TrainingPlan: ...


ArenaT = TypeVar("ArenaT", bound=Planned)
ResultT = TypeVar("ResultT", bound=Trained)


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


class ResumableTrials(ABC, Generic[ArenaT, ResultT]):
    """Trains contestants one after the other on the splits of `arena`; an interrupted run goes on in `folder`.

    What a finished trial came to stays in the folder until the run is finished, its checkpoints go at once. The
    tracker gets all trials, on steps that never fall.
    """

    def __init__(self, arena: ArenaT, *, folder: RunFolder, tracker: Tracker, progress: Mode) -> None:
        self.arena = arena
        self._folder = folder
        self._tracker = tracker
        self._progress: Mode = progress
        self._after = 0
        self._sizes: dict[str, int] = {}

    @abstractmethod
    def _fit(self, trial: Trial, *, checkpoints: Path, tracker: Tracker, progress: Progress) -> ResultT:
        """Trains and tests; the model is among the result."""

    @abstractmethod
    def _save(self, fitted: ResultT, trial: Trial, *, folder: Path) -> None:
        """Writes the model's own weights into `folder`."""

    @abstractmethod
    def _without_model(self, fitted: ResultT) -> ResultT: ...

    @abstractmethod
    def _packed(self, fitted: ResultT) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All but the model, as tensors and as what JSON holds."""

    @abstractmethod
    def _unpacked(self, kept: Checkpoint) -> ResultT:
        """What `_packed` packed."""

    def run(self, trial: Trial, *, keep_model: bool = False) -> ResultT:
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

    def each_seed(self, contestant: Contestant, *, keep_first: bool = False) -> dict[int, ResultT]:
        """A contestant at its recipe's rate for every seed; `keep_first` keeps the model of the first one."""
        seeds = self.arena.plan.seeds
        return {seed: self.run(Trial(contestant, seed), keep_model=keep_first and seed == seeds[0]) for seed in seeds}

    @cached_property
    def _encoder_revision(self) -> str:
        return encoder_revision(self.arena.plan.encoder)

    def _checkpoints(self, trial: Trial) -> Path:
        return self._folder.checkpoints / trial.name

    def _read(self, place: Path) -> ResultT | None:
        """What was written; None where nothing whole is there. Raises DivergedError where that is what was found."""
        kept = load_latest(place)
        if kept is None:
            return None
        if _DIVERGED in kept.facts:
            self._after += kept.facts["last"] + 1  # steps that an earlier process has logged
            raise DivergedError(kept.facts[_DIVERGED])
        return self._unpacked(kept)

    def _train(self, trial: Trial, place: Path, *, keep_model: bool) -> ResultT:
        name = trial.contestant.name
        checkpoints = self._checkpoints(trial)
        rate = "" if trial.learning_rate is None else f", learning rate {trial.learning_rate:g}"
        tracked = "" if trial.learning_rate is None else f"/rate-{trial.learning_rate:g}"
        tracker = Prefixed(self._tracker, prefix=f"{name}{tracked}/seed-{trial.seed}", after=self._after)
        try:
            fitted = self._fit(
                trial,
                checkpoints=checkpoints,
                tracker=tracker,
                progress=Progress(self._progress, title=f"{name}, seed {trial.seed}{rate}"),
            )
        except DivergedError as problem:
            told = f"{name}, seed {trial.seed}{rate}: {problem}"
            commit(place, step=0, tensors={}, facts={_DIVERGED: told, "last": tracker.last - self._after})
            remove(checkpoints)
            raise DivergedError(told) from None
        finally:
            self._after = tracker.last + 1
        if name not in self._sizes:  # it is the same for all of a contestant's
            self._sizes[name] = self._file_size(fitted, trial)
        fitted = replace(fitted, adapter_bytes=self._sizes[name])
        if keep_model:
            return fitted  # read from its checkpoint when the run goes on
        fitted = self._without_model(fitted)
        tensors, facts = self._packed(fitted)
        commit(place, step=fitted.history[-1]["step"], tensors=tensors, facts=facts)
        remove(checkpoints)
        return fitted

    def _file_size(self, fitted: ResultT, trial: Trial) -> int:
        """Bytes of the weights as they are handed on, measured on the file itself."""
        with TemporaryDirectory(dir=self._folder.checkpoints) as temporary:
            folder = Path(temporary)
            self._save(fitted, trial, folder=folder)
            return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
