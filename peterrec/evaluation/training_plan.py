"""A resolved fine-tuning of whatever kind: the task, the encoder, the seeds, and the settings of each training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peterrec.catalogue import AdapterRecipe, RankingTask, TaskRecipe
from peterrec.errors import SettingsError
from peterrec.settings import load_settings
from peterrec.training.finetuning import FinetuningSettings


@dataclass(frozen=True)
class TrainingPlan:
    """The task, what was overridden, where the encoder is, the seeds; `source` is the task as it was named."""

    task: TaskRecipe | RankingTask
    overrides: tuple[str, ...]
    encoder: Path
    seeds: tuple[int, ...]
    source: str

    def settings(
        self, recipe: AdapterRecipe, *, seed: int = 0, learning_rate: float | None = None
    ) -> FinetuningSettings:
        """The training settings of an adapter: the task's, then the adapter's own, then what was overridden.

        `learning_rate` is one of a search, which stands above all of them.
        """
        layers: list[tuple[str, Mapping[str, object]]] = [(f"task {self.task.name}", self.task.training)]
        if recipe.learning_rate is not None:
            layers.append((f"adapter {recipe.name}", {"learning_rate": recipe.learning_rate}))
        found = load_settings(FinetuningSettings, layers=layers, overrides=self.overrides)
        searched = {} if learning_rate is None else {"learning_rate": learning_rate}
        return found.model_copy(update={"seed": seed, **searched})


def training_overrides(overrides: Sequence[str], *, task: TaskRecipe | RankingTask) -> tuple[str, ...]:
    """`key=value` for a task's training settings, as fine-tuning names them. Raises SettingsError for a seed."""
    named = [override.strip().removeprefix("training.") for override in overrides]  # as pretraining calls them
    for origin, keys in (
        ("--set", [override.partition("=")[0].strip() for override in named]),
        (f"task {task.name}: training", task.training),
    ):
        if "seed" in keys:
            raise SettingsError(f"{origin}: seed is not to be set; --seeds N runs the seeds 0 to N - 1.")
    return tuple(named)
