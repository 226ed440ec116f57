"""The study of a task with classes: labelled users of a prepared log."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import torch
from torch import Tensor, nn

from peterrec.baselines.majority import Majority
from peterrec.catalogue import AdapterRecipe, TaskRecipe
from peterrec.data.attribute import Split
from peterrec.data.prepared import column_options
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.arena import Arena, Plan, open_arena, predictions, resolve
from peterrec.evaluation.classification_results import all_models, one_model
from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.split_file import write_split
from peterrec.evaluation.study import TaskStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.training_plan import finetune_command
from peterrec.evaluation.trial import Trial
from peterrec.model import TaskModel
from peterrec.run_record import relative_to_run
from peterrec.task_run import TaskFacts, save_task, weights_digest
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Fitted, fit

_PROBABILITIES = "probabilities"


class ClassificationStudy(TaskStudy[Plan, Contestant, Fitted]):
    """One class a user, learned from labelled users."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    @property
    def arena(self) -> Arena:
        return self._arena

    @property
    def plan(self) -> Plan:
        return self.arena.plan

    @classmethod
    def resolve(cls, request: StudyRequest) -> Plan:
        request.refuse_more_tasks()
        if request.encoder is None:
            raise SettingsError(f"task {request.task} predicts from what an encoder says of a user; name one.")
        if request.logs is not None:
            raise SettingsError(
                f"task {request.task} predicts a label of the users of one prepared log; it reads no logs of two "
                "domains."
            )
        return resolve(
            request.task,
            encoder=request.encoder,
            data=request.data,
            seeds=request.seeds,
            labels=request.labels,
            overrides=request.overrides,
        )

    @classmethod
    @contextmanager
    def open(cls, plan: Plan, request: StudyRequest) -> Iterator[Self]:
        yield cls(open_arena(plan))

    def recorded(self) -> dict[str, Any]:
        return {
            "labels": self.plan.labels,
            "encoder_revision": self.plan.encoder_revision,
            "vocabulary": self.arena.prepared.vocabulary.fingerprint,
            "data": self.arena.prepared.fingerprint,
        }

    @property
    def summary(self) -> dict[str, Any]:
        return self.arena.prepared.summary

    def inputs(self, folder: Path) -> dict[str, str]:
        return {
            "encoder": relative_to_run(self.plan.encoder, folder),
            "data": relative_to_run(self.plan.data, folder),
        }

    def train(self, trial: Trial[Contestant], *, checkpoints: Path, tracker: Tracker, progress: Progress) -> Fitted:
        return self._fit(
            trial,
            split=self.arena.splits[trial.seed],
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
            keep_model=True,
        )

    def help(self, trial: Trial[Contestant]) -> None:
        split = self.arena.splits[trial.seed]
        self._fit(
            trial,
            split=replace(split, test=split.test[:0]),  # the main process predicts
            checkpoints=None,
            tracker=Tracker(),
            progress=Progress("silent"),
            keep_model=False,
        )

    def save(
        self, model: nn.Module, contestant: Contestant, *, seed: int, folder: Path, base_model: str = ""
    ) -> TaskFacts:
        assert isinstance(model, TaskModel)
        arena = self.arena
        labels = arena.attribute.labels[arena.splits[seed].train]
        prior = Majority.fit(labels, num_classes=len(arena.attribute.classes)).shares
        facts = TaskFacts(
            task=self.plan.task,
            adapter=contestant.adapter,
            classes=arena.attribute.classes,
            prior=tuple(prior.tolist()),
            encoder_revision=self.plan.encoder_revision,
            vocabulary_fingerprint=arena.prepared.vocabulary.fingerprint,
        )
        save_task(model, folder=folder, facts=facts, base_model=base_model)
        return facts.model_copy(update={"weights": weights_digest(folder, facts)})

    def packed(self, result: Fitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        facts = {key: value for key, value in vars(result).items() if key not in ("model", _PROBABILITIES)}
        return {_PROBABILITIES: torch.from_numpy(result.probabilities)}, facts

    def unpacked(self, kept: Checkpoint) -> Fitted:
        return Fitted(model=None, probabilities=kept.tensors[_PROBABILITIES].numpy(), **kept.facts)

    def measured(self, contestant: Contestant, fitted: Mapping[int, Fitted]) -> dict[str, Any]:
        return one_model(self.arena, contestant.name, fitted)

    def compared(
        self, field: Sequence[tuple[Contestant, str]], found: Mapping[str, Searched[Fitted]], *, effort: str
    ) -> dict[str, Any]:
        return all_models(self.arena, field, found, effort=effort)

    def predictions(self, fitted: Mapping[int, Fitted]) -> pa.Table:
        return predictions(fitted, self.arena)

    def write_split(self, folder: Path, *, seed: int) -> None:
        write_split(folder, users=self.arena.attribute.users.tolist(), split=self.arena.splits[seed])

    def usage(self, folder: Path) -> list[str]:
        model = shlex.quote(str(folder))
        return [
            f"peterrec predict LOG {column_options(self.arena.prepared)} --model {model} --output predictions.parquet",
            f"peterrec evaluate --model {model}",
        ]

    def retraining(self, contestant: Contestant, *, learning_rate: float) -> list[str]:
        plan = self.plan
        words = ["--task", plan.source, "--adapter", contestant.source]
        words += ["--encoder", str(plan.encoder), "--data", str(plan.data)]
        budget = [] if plan.labels is None else ["--labels", str(plan.labels)]
        return finetune_command(plan, words, learning_rate=learning_rate, more=budget)

    def job(self, contestant: Contestant) -> dict[str, Any]:
        return {
            **self.plan.job(contestant),
            "data": str(self.plan.data.absolute()),
            "fingerprint": self.arena.prepared.fingerprint,
            "labels": self.plan.labels,
        }

    @classmethod
    def helper(cls, job: Mapping[str, Any]) -> tuple[Self, Contestant]:
        recipe = AdapterRecipe.model_validate(job["adapter"])
        plan = Plan(
            task=TaskRecipe.model_validate(job["task"]),
            overrides=tuple(job["overrides"]),
            encoder=Path(job["encoder"]),
            data=Path(job["data"]),
            seeds=tuple(job["seeds"]),
            labels=job["labels"],
            source=job["task"]["name"],
        )
        study = cls(open_arena(plan))
        if (study.arena.prepared.fingerprint, plan.encoder_revision) != (job["fingerprint"], job["encoder_revision"]):
            raise RefusedError(
                f"{plan.data} or {plan.encoder}: not that of the main process; copy its folders to this machine."
            )
        return study, Contestant(recipe.name, recipe)

    def _fit(
        self,
        trial: Trial[Contestant],
        *,
        split: Split,
        checkpoints: Path | None,
        tracker: Tracker,
        progress: Progress,
        keep_model: bool,
    ) -> Fitted:
        return fit(
            trial.contestant,
            encoder_folder=self.plan.encoder,
            task=self.plan.task,
            settings=self.plan.settings_of(trial.contestant, seed=trial.seed, learning_rate=trial.learning_rate),
            histories=self.arena.prepared.sequences("histories"),
            attribute=self.arena.attribute,
            split=split,
            checkpoints=checkpoints,
            metrics_file=None,
            tracker=tracker,
            progress=progress,
            keep_model=keep_model,
        )
