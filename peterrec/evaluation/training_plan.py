"""A resolved fine-tuning of whatever kind: the task, the encoder, the seeds, who may take part, and the settings."""

import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from peterrec.catalogue import AdapterRecipe, given
from peterrec.errors import SettingsError
from peterrec.evaluation.trial import ContestantT
from peterrec.history_recipe import HistoryRecipe
from peterrec.settings import load_settings
from peterrec.training.settings import TrainingSettings

SettingsT = TypeVar("SettingsT", bound=TrainingSettings)


@dataclass(frozen=True)
class TrainingPlan(ABC, Generic[ContestantT]):
    """The task, what was overridden, where the encoder is, the seeds; `source` is the task as it was named."""

    task: HistoryRecipe
    overrides: tuple[str, ...]
    encoder: Path | None
    seeds: tuple[int, ...]
    source: str

    @abstractmethod
    def contestant(self, adapter: str | Path | None = None) -> ContestantT:
        """The one that is fine-tuned: with this adapter, or the task's own. Raises SettingsError."""

    @abstractmethod
    def field(self, adapters: Sequence[str] | None, controls: Sequence[str] | None) -> list[tuple[ContestantT, str]]:
        """Those that are compared, models first, with their roles; None for those of the kind. Raises SettingsError."""

    @abstractmethod
    def settings_of(
        self, contestant: ContestantT, *, seed: int = 0, learning_rate: float | None = None
    ) -> TrainingSettings:
        """The training settings of a contestant; see `training_settings`."""

    def recipes(self, contestant: ContestantT) -> dict[str, Any]:
        """What `contestant` is made of: settings of its run, and a TOML each in its folder, under these names."""
        return {"task": self.task, "adapter": contestant.adapter}

    def described(self, contestant: ContestantT) -> dict[str, Any]:
        """What a comparison records of a contestant."""
        return given(contestant.adapter)

    def names(self, contestant: ContestantT) -> tuple[str, ...]:
        """What the run of a contestant is called after."""
        return self.task.name, contestant.name

    def title(self, contestant: ContestantT) -> str:
        """The headline of its page."""
        return f"{self.task.name} with the adapter {contestant.name}"


def training_settings(
    model: type[SettingsT],
    *,
    task: HistoryRecipe,
    adapter: AdapterRecipe,
    overrides: Sequence[str],
    seed: int = 0,
    learning_rate: float | None = None,
) -> SettingsT:
    """Settings of an adapter's training: the task's, then the adapter's own, then what was overridden.

    `learning_rate` is one of a search, which stands above all of them. Raises SettingsError.
    """
    layers: list[tuple[str, Mapping[str, object]]] = [(f"task {task.name}", task.training)]
    if adapter.learning_rate is not None:
        layers.append((f"adapter {adapter.name}", {"learning_rate": adapter.learning_rate}))
    found = load_settings(model, layers=layers, overrides=overrides)
    searched = {} if learning_rate is None else {"learning_rate": learning_rate}
    return found.model_copy(update={"seed": seed, **searched})


def training_overrides(overrides: Sequence[str], *, task: HistoryRecipe) -> tuple[str, ...]:
    """`key=value` for a task's training settings, as fine-tuning names them. Raises SettingsError for a seed."""
    named = [override.strip().removeprefix("training.") for override in overrides]  # as pretraining calls them
    for origin, keys in (
        ("--set", [override.partition("=")[0].strip() for override in named]),
        (f"task {task.name}: training", task.training),
    ):
        if "seed" in keys:
            raise SettingsError(f"{origin}: seed is not to be set; --seeds N runs the seeds 0 to N - 1.")
    return tuple(named)


def finetune_command(
    plan: TrainingPlan[Any], words: Sequence[str], *, learning_rate: float, more: Sequence[str] = ()
) -> list[str]:
    """The command that trains again: `words` name task, adapter and data, `more` stands behind the seeds."""
    command = ["peterrec", "finetune", *words]
    if plan.seeds == tuple(range(len(plan.seeds))):
        command += ["--seeds", str(len(plan.seeds))]
    command += more
    for setting in (*plan.overrides, f"learning_rate={learning_rate!r}"):
        command += ["--set", setting]
    return [shlex.join(command)]
