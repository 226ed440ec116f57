"""A resolved training on impressions: which recipes, on which encoder or none, with which settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peterrec.baselines.ratings.models import MODELS
from peterrec.catalogue import ImpressionTask, adapter, given
from peterrec.errors import SettingsError, did_you_mean
from peterrec.evaluation.impression_recipes import NamedRecipe, named_recipes
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.training_plan import TrainingPlan, training_overrides
from peterrec.run_record import read_run
from peterrec.settings import Settings, load_settings
from peterrec.training.impression_step import ImpressionSettings
from peterrec.transfer import Contestant

# What a user may ask of a comparison: what do the encoder's vectors add, and what their pretraining?
CONTROLS = {
    "no_encoder": "each recipe without the encoder's user and item vectors",
    "random": "the first recipe on an encoder of random weights",
}
REGRESSION, RATE_OF_DOMAIN, RATE, ORACLE = "logistic_regression", "base_rate_of_domain", "base_rate", "oracle"
RATING_MODELS = tuple(name for name in MODELS if name != "global_mean")  # that one is the base rate of a value
BASELINES = (REGRESSION, *RATING_MODELS, RATE_OF_DOMAIN, RATE)
RESERVED = (*BASELINES, ORACLE)  # names of the other rows of a table


@dataclass(frozen=True)
class ImpressionContestant(Contestant):
    """A task recipe and an adapter; `with_encoder`: on the vectors of the encoder."""

    task: ImpressionTask | None = None
    with_encoder: bool = True

    @property
    def recipe(self) -> ImpressionTask:
        """The task recipe."""
        assert self.task is not None
        return self.task


@dataclass(frozen=True)
class ImpressionPlan(TrainingPlan[ImpressionContestant]):
    """Also where the impressions are, and all recipes that are compared, the task first."""

    task: ImpressionTask
    data: Path
    recipes_compared: tuple[NamedRecipe, ...] = ()

    @classmethod
    def of(cls, request: StudyRequest) -> "ImpressionPlan":
        """The plan of a command. Raises SettingsError for what does not go with impressions."""
        compared = named_recipes((request.task, *request.more_tasks), balancers=request.balancers)
        recipe = compared[0].task
        for one in compared:
            if one.task.name in RESERVED:
                raise SettingsError(
                    f"{one.words[1]}: {one.task.name!r} is the name of a row beside the models; call the recipe "
                    "otherwise."
                )
        if request.logs is not None:
            raise SettingsError(
                f"task {recipe.name}: --source and --target name the logs of two domains; a task on impressions reads "
                "data that `peterrec prepare --label` has prepared: name them with --data."
            )
        if request.labels is not None:
            raise SettingsError(f"task {recipe.name}: --labels counts labelled users; a task on impressions has none.")
        if request.data is None:
            raise SettingsError(
                f"task {recipe.name}: name impressions with --data, as `peterrec prepare --label` has prepared them."
            )
        if request.encoder is not None:
            read_run(request.encoder, stage="pretrain")
        return cls(
            task=recipe,
            overrides=training_overrides(request.overrides, task=recipe),
            encoder=request.encoder,
            seeds=tuple(recipe.seeds if request.seeds is None else request.seeds),
            source=str(request.task),
            data=request.data,
            recipes_compared=compared,
        )

    def contestant(self, adapter: str | Path | None = None) -> ImpressionContestant:
        """The task itself, with this adapter or its own. Raises SettingsError for an adapter without an encoder."""
        return self._contestant(self.task, adapter)

    def field(
        self, adapters: Sequence[str] | None, controls: Sequence[str] | None
    ) -> list[tuple[ImpressionContestant, str]]:
        """Each recipe with each adapter, the task first; then the controls: without names, `no_encoder`."""
        recipes = [one.task for one in self.recipes_compared] or [self.task]
        found = [(self._contestant(task, name), "model") for task in recipes for name in adapters or [None]]
        wanted = (("no_encoder",) if self.encoder is not None else ()) if controls is None else controls
        for name in wanted:
            if name not in CONTROLS:
                raise SettingsError(f"There is no control {name!r} for impressions. {did_you_mean(name, CONTROLS)}")
            if self.encoder is None:
                raise SettingsError(f"--controls {name}: it is set against an encoder's vectors, and there is none.")
            if name == "no_encoder":
                found += [(self._without(task), "control") for task in recipes]
            else:
                first = found[0][0]
                found.append(
                    (
                        ImpressionContestant(f"{first.name}-random", first.adapter, pretrained=False, task=first.task),
                        "control",
                    )
                )
        names = [one.name for one, _ in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise SettingsError(f"The name {twice[0]!r} would stand twice in the table; name each recipe once.")
        return found

    def _contestant(self, task: ImpressionTask, name: str | Path | None) -> ImpressionContestant:
        recipe = adapter(task.adapter if name is None else name)
        if self.encoder is None:
            if recipe.tuner != "none":
                raise SettingsError(
                    f"adapter {recipe.name}: it goes inside an encoder, and there is none: name one with --encoder, "
                    "and prepare the impressions with --history and --encoder."
                )
            return self._without(task, suffix="")
        suffix = "" if name is None or recipe.name == task.adapter else f"+{recipe.name}"
        return ImpressionContestant(f"{task.name}{suffix}", recipe, task=task, source="" if name is None else str(name))

    def _without(self, task: ImpressionTask, *, suffix: str = "-no_encoder") -> ImpressionContestant:
        return ImpressionContestant(f"{task.name}{suffix}", adapter("none"), task=task, with_encoder=False)

    def settings_of(
        self, contestant: ImpressionContestant, *, seed: int = 0, learning_rate: float | None = None
    ) -> ImpressionSettings:
        """The training settings of a contestant: its recipe's, its adapter's, then what was overridden."""
        task, own = contestant.recipe, contestant.adapter
        layers: list[tuple[str, dict[str, Any]]] = [(f"task {task.name}", dict(task.training))]
        if own.learning_rate is not None:
            layers.append((f"adapter {own.name}", {"learning_rate": own.learning_rate}))
        found = load_settings(ImpressionSettings, layers=layers, overrides=self.overrides)
        searched = {} if learning_rate is None else {"learning_rate": learning_rate}
        return found.model_copy(update={"seed": seed, **searched})

    def recipes(self, contestant: ImpressionContestant) -> dict[str, Settings]:
        """Task and adapter."""
        return {"task": contestant.recipe, "adapter": contestant.adapter}

    def described(self, contestant: ImpressionContestant) -> dict[str, Any]:
        """What a comparison records of a contestant."""
        return {
            "task": given(contestant.recipe),
            "adapter": given(contestant.adapter) if contestant.with_encoder else None,
            "pretrained": contestant.pretrained,
        }

    def names(self, contestant: ImpressionContestant) -> tuple[str, ...]:
        """What a run is called after."""
        return (contestant.name,)

    def title(self, contestant: ImpressionContestant) -> str:
        """The headline of a page."""
        with_what = "without an encoder"
        if contestant.with_encoder:
            kept = contestant.adapter.tuner == "none"
            with_what = "on a frozen encoder" if kept else f"with the adapter {contestant.adapter.name}"
        return f"{contestant.recipe.name} {with_what}"
