"""Tasks on impressions as a study: recipes and adapters, with and without an encoder, on one set of splits."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from torch import Tensor, nn

from peterrec.catalogue import AdapterRecipe, ImpressionTask
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import DataError, RefusedError
from peterrec.evaluation.impression_arena import ImpressionArena, open_impression_arena
from peterrec.evaluation.impression_fitted import ImpressionFitted, pack_impressions, unpack_impressions
from peterrec.evaluation.impression_plan import ImpressionContestant, ImpressionPlan
from peterrec.evaluation.impression_results import compared_results, fitted_results, prediction_table
from peterrec.evaluation.impression_split import write_row_split
from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.study import TaskStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.training_plan import finetune_command
from peterrec.evaluation.trial import Trial
from peterrec.impression_design import Design, binary_labels, design
from peterrec.impression_run import ImpressionFacts, save_impressions
from peterrec.impression_transfer import ImpressionFit, fit_codings, fit_impressions, fitted_of
from peterrec.run_record import relative_to_run
from peterrec.settings import dump
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.impression_balancing import objectives_balanced
from peterrec.training.impression_reader import ImpressionReader
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Trained, starting_encoder


class ImpressionStudy(TaskStudy[ImpressionPlan, ImpressionContestant, ImpressionFitted]):
    """A plan on prepared impressions."""

    def __init__(self, arena: ImpressionArena):
        self._arena = arena
        self._designs: dict[str, Design] = {}
        self.revision: str = "" if arena.plan.encoder is None else encoder_revision(arena.plan.encoder)

    @classmethod
    def resolve(cls, request: StudyRequest) -> ImpressionPlan:
        return ImpressionPlan.of(request)

    @classmethod
    @contextmanager
    def open(cls, plan: ImpressionPlan, request: StudyRequest) -> Iterator[Self]:
        yield cls.of(plan)

    @classmethod
    def of(cls, plan: ImpressionPlan) -> Self:
        """The study of a plan. Raises what opening its data raises, SettingsError for a task that does not fit."""
        study = cls(open_impression_arena(plan))
        for task in (plan.task, *(one.task for one in plan.recipes_compared)):
            study.design(task)  # what does not fit the data is refused before anything is written
        return study

    @property
    def arena(self) -> ImpressionArena:
        return self._arena

    @property
    def plan(self) -> ImpressionPlan:
        return self._arena.plan

    def design(self, task: ImpressionTask) -> Design:
        """What a recipe comes to on the data. Raises SettingsError where it does not fit them."""
        if task.name not in self._designs:
            impressions = self._arena.impressions
            self._designs[task.name] = found = design(
                task,
                fields=[one.name for one in impressions.schema.fields],
                labels=binary_labels(impressions),
                domains=len(impressions.schema.domains),
            )
            if task.balancer != "sum":
                objectives_balanced(found.objectives, balancer=task.balancer, options=task.balancing, tensors=0)
        return self._designs[task.name]

    def recorded(self) -> dict[str, Any]:
        vocabulary = self._arena.impressions.vocabulary
        return {
            "encoder_revision": self.revision,
            "vocabulary": None if vocabulary is None else vocabulary.fingerprint,
            "data": self._arena.impressions.fingerprint,
        }

    @property
    def summary(self) -> dict[str, Any]:
        return self._arena.impressions.summary

    def inputs(self, folder: Path) -> dict[str, str]:
        plan = self.plan
        found = {"data": relative_to_run(plan.data, folder), "data_fingerprint": self._arena.impressions.fingerprint}
        return found if plan.encoder is None else {"encoder": relative_to_run(plan.encoder, folder), **found}

    def train(
        self,
        trial: Trial[ImpressionContestant],
        *,
        checkpoints: Path | None,
        tracker: Tracker,
        progress: Progress,
    ) -> ImpressionFitted:
        split = self._arena.splits[trial.seed]
        fitted, data, trained = self._fit(trial, checkpoints=checkpoints, tracker=tracker, progress=progress)
        device = next(fitted.whole.parameters()).device
        predicted = data.predict(split.test, device)
        return ImpressionFitted(**vars(trained), model=fitted.whole.cpu(), predicted=predicted)

    def help(self, trial: Trial[ImpressionContestant]) -> None:
        self._fit(trial, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))

    def _fit(
        self, trial: Trial[ImpressionContestant], *, checkpoints: Path | None, tracker: Tracker, progress: Progress
    ) -> tuple[ImpressionFit, ImpressionReader, Trained]:
        contestant, plan = trial.contestant, self.plan
        settings = plan.settings_of(contestant, seed=trial.seed, learning_rate=trial.learning_rate)
        encoder: UserEncoder | None = None
        key = None
        if contestant.with_encoder:
            assert plan.encoder is not None
            encoder = starting_encoder(contestant, plan.encoder, seed=settings.seed)
            key = self._vectors_key(contestant, seed=settings.seed)
        return fit_impressions(
            self.design(contestant.recipe),
            encoder=encoder,
            adapter=contestant.adapter,
            settings=settings,
            impressions=self._arena.impressions,
            split=self._arena.splits[trial.seed],
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
            earlier=self._arena.vectors,
            key=key,
        )

    def _vectors_key(self, contestant: ImpressionContestant, *, seed: int) -> str:
        """What the vectors of a frozen encoder depend on: which encoder, how it is read."""
        task, own = contestant.recipe, contestant.adapter
        read = [str(getattr(own if own.readout is not None else task, key)) for key in ("readout", "layers")]
        length = task.max_length if own.max_length is None else own.max_length
        window = task.window if own.window is None else own.window
        random = "" if contestant.pretrained else f" random {seed}"
        return f"{self.revision}{random} {own.name} {' '.join(read)} {length} {window}"

    def save(
        self, model: nn.Module, contestant: ImpressionContestant, *, seed: int, folder: Path, base_model: str = ""
    ) -> ImpressionFacts:
        plan, impressions = self.design(contestant.recipe), self._arena.impressions
        coding = fit_codings(plan, impressions, self._arena.splits[seed].train)
        vocabulary = impressions.vocabulary if contestant.with_encoder else None
        facts = ImpressionFacts(
            task=contestant.recipe,
            adapter=contestant.adapter,
            encoder_revision=self.revision if contestant.with_encoder else "",
            vocabulary_fingerprint="" if vocabulary is None else vocabulary.fingerprint,
            labels=binary_labels(impressions),
            coding=coding.fingerprint,
        )
        fitted = fitted_of(model, plan, coding, contestant.adapter)
        return save_impressions(fitted, folder=folder, facts=facts, schema=impressions.schema, base_model=base_model)

    def packed(self, result: ImpressionFitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return pack_impressions(result)

    def unpacked(self, kept: Checkpoint) -> ImpressionFitted:
        return unpack_impressions(kept)

    def measured(self, contestant: ImpressionContestant, fitted: Mapping[int, ImpressionFitted]) -> dict[str, Any]:
        return fitted_results(self, contestant, fitted)

    def compared(
        self,
        field: Sequence[tuple[ImpressionContestant, str]],
        found: Mapping[str, Searched[ImpressionFitted]],
        *,
        effort: str,
    ) -> dict[str, Any]:
        return compared_results(self, field, found, effort=effort)

    def predictions(self, fitted: Mapping[int, ImpressionFitted]) -> pa.Table:
        return prediction_table(self._arena, {seed: one.predicted for seed, one in fitted.items()})

    def write_split(self, folder: Path, *, seed: int) -> None:
        write_row_split(folder, impressions=self._arena.impressions, split=self._arena.splits[seed])

    def usage(self, folder: Path) -> list[str]:
        history = "" if self._arena.impressions.history is None or self.plan.encoder is None else " --history LOG"
        model = shlex.quote(str(folder))
        return [
            f"peterrec predict IMPRESSIONS{history} --model {model} --output predictions.parquet",
            f"peterrec evaluate --model {model}",
        ]

    def retraining(self, contestant: ImpressionContestant, *, learning_rate: float) -> list[str]:
        plan, own = self.plan, contestant.recipe
        named = next((one.words for one in plan.recipes_compared if one.task.name == own.name), ("--task", own.name))
        words = [*named, "--data", str(plan.data)]
        if contestant.with_encoder:
            words += ["--encoder", str(plan.encoder)]
            words += ["--adapter", contestant.source] if contestant.source else []
        else:
            words += ["--without-encoder"]
        return finetune_command(plan, words, learning_rate=learning_rate)

    def job(self, contestant: ImpressionContestant) -> dict[str, Any]:
        plan = self.plan
        return {
            "task": dump(contestant.recipe),
            "adapter": dump(contestant.adapter),
            "name": contestant.name,
            "with_encoder": contestant.with_encoder,
            "overrides": list(plan.overrides),
            "encoder": None if plan.encoder is None else str(plan.encoder.absolute()),
            "encoder_revision": self.revision,
            "data": str(plan.data.absolute()),
            "fingerprint": self._arena.impressions.fingerprint,
            "seeds": list(plan.seeds),
        }

    @classmethod
    def helper(cls, job: Mapping[str, Any]) -> tuple[Self, ImpressionContestant]:
        task = ImpressionTask.model_validate(job["task"])
        plan = ImpressionPlan(
            task=task,
            overrides=tuple(job["overrides"]),
            encoder=None if job["encoder"] is None else Path(job["encoder"]),
            seeds=tuple(job["seeds"]),
            source=task.name,
            data=Path(job["data"]),
        )
        try:
            study = cls.of(plan)
        except DataError as problem:
            raise RefusedError(f"{problem} Every machine of the launch must see {plan.data}.") from None
        if (study.arena.impressions.fingerprint, study.revision) != (job["fingerprint"], job["encoder_revision"]):
            raise RefusedError(
                f"{plan.data} or {plan.encoder}: not that of the main process; copy its folders to this machine."
            )
        contestant = ImpressionContestant(
            job["name"], AdapterRecipe.model_validate(job["adapter"]), task=task, with_encoder=job["with_encoder"]
        )
        return study, contestant
