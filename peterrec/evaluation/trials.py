"""Trainings of contestants, one after the other, each resumable; what the finished ones came to is kept."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic

from peterrec.atomic import remove
from peterrec.errors import DivergedError
from peterrec.evaluation.study import Planned, TaskStudy
from peterrec.evaluation.trial import ContestantT, ResultT, Trial
from peterrec.run_folder import RunFolder
from peterrec.training.checkpoint import commit, load_latest
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracking import Prefixed, Tracker

_DIVERGED = "diverged"


class Trials(Generic[ContestantT, ResultT]):
    """Trains contestants one after the other on the splits of `study`; an interrupted run goes on in `folder`.

    What a finished trial came to stays in the folder until the run is finished, its checkpoints go at once. The
    tracker gets all trials, on steps that never fall.
    """

    def __init__(
        self, study: TaskStudy[Any, ContestantT, ResultT], *, folder: RunFolder, tracker: Tracker, progress: Mode
    ) -> None:
        self.study = study
        self._folder = folder
        self._tracker = tracker
        self._progress: Mode = progress
        self._after = 0
        self._sizes: dict[str, int] = {}

    @property
    def arena(self) -> Planned:
        """Plan, data and splits."""
        return self.study.arena

    def run(self, trial: Trial[ContestantT], *, keep_model: bool = False) -> ResultT:
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

    def each_seed(self, contestant: ContestantT, *, keep_first: bool = False) -> dict[int, ResultT]:
        """A contestant at its recipe's rate for every seed; `keep_first` keeps the model of the first one."""
        seeds = self.arena.plan.seeds
        return {seed: self.run(Trial(contestant, seed), keep_model=keep_first and seed == seeds[0]) for seed in seeds}

    def _checkpoints(self, trial: Trial[ContestantT]) -> Path:
        return self._folder.checkpoints / trial.name

    def _read(self, place: Path) -> ResultT | None:
        """What was written; None where nothing whole is there. Raises DivergedError where that is what was found."""
        kept = load_latest(place)
        if kept is None:
            return None
        if _DIVERGED in kept.facts:
            self._after += kept.facts["last"] + 1  # steps that an earlier process has logged
            raise DivergedError(kept.facts[_DIVERGED])
        return self.study.unpacked(kept)

    def _train(self, trial: Trial[ContestantT], place: Path, *, keep_model: bool) -> ResultT:
        name = trial.contestant.name
        checkpoints = self._checkpoints(trial)
        rate = "" if trial.learning_rate is None else f", learning rate {trial.learning_rate:g}"
        tracked = "" if trial.learning_rate is None else f"/rate-{trial.learning_rate:g}"
        tracker = Prefixed(self._tracker, prefix=f"{name}{tracked}/seed-{trial.seed}", after=self._after)
        try:
            fitted = self.study.train(
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
        fitted = replace(fitted, model=None)
        tensors, facts = self.study.packed(fitted)
        commit(place, step=fitted.history[-1]["step"], tensors=tensors, facts=facts)
        remove(checkpoints)
        return fitted

    def _file_size(self, fitted: ResultT, trial: Trial[ContestantT]) -> int:
        """Bytes of the weights as they are handed on, measured on the file itself."""
        with TemporaryDirectory(dir=self._folder.checkpoints) as temporary:
            folder = Path(temporary)
            assert fitted.model is not None
            self.study.save(fitted.model, trial.contestant, seed=trial.seed, folder=folder)
            return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
