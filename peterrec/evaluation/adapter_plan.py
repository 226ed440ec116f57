"""A resolved fine-tuning in which adapters of one encoder, on one task, meet each other."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peterrec.catalogue import AdapterRecipe
from peterrec.catalogue import adapter as adapter_recipe
from peterrec.encoders.loading import encoder_revision
from peterrec.evaluation.contestants import CONTROLS, Field, contestants, named
from peterrec.evaluation.training_plan import TrainingPlan, training_settings
from peterrec.settings import dump
from peterrec.training.finetuning import FinetuningSettings
from peterrec.transfer import Contestant


@dataclass(frozen=True)
class AdapterPlan(TrainingPlan[Contestant]):
    """A plan whose contestants are adapters, and controls, of `encoder`."""

    encoder: Path

    @property
    @abstractmethod
    def adapter(self) -> str:
        """The adapter when none is asked for."""

    @property
    @abstractmethod
    def reserved(self) -> Sequence[str]:
        """Names that no contestant may have: those of baselines and the like."""

    def contestant(self, adapter: str | Path | None = None) -> Contestant:
        """The task's own adapter, or the one of that name or file. Raises SettingsError."""
        source = self.adapter if adapter is None else adapter
        recipe = adapter_recipe(source)
        return Contestant(recipe.name, recipe, source=str(source))

    def field(self, adapters: Sequence[str] | None, controls: Sequence[str] | None) -> Field:
        """Adapters and controls with their roles, as `named` and `contestants` say; all controls for None.

        Raises SettingsError.
        """
        wanted = tuple(CONTROLS) if controls is None else controls
        return contestants(named(adapters, own=self.adapter), wanted, reserved=self.reserved)

    def settings(
        self, recipe: AdapterRecipe, *, seed: int = 0, learning_rate: float | None = None
    ) -> FinetuningSettings:
        """The training settings of an adapter, as `training_settings` says. Raises SettingsError."""
        return training_settings(
            FinetuningSettings,
            task=self.task,
            adapter=recipe,
            overrides=self.overrides,
            seed=seed,
            learning_rate=learning_rate,
        )

    def settings_of(
        self, contestant: Contestant, *, seed: int = 0, learning_rate: float | None = None
    ) -> FinetuningSettings:
        """The training settings of a contestant."""
        return self.settings(contestant.adapter, seed=seed, learning_rate=learning_rate)

    @cached_property
    def encoder_revision(self) -> str:
        """Which encoder it is."""
        return encoder_revision(self.encoder)

    def job(self, contestant: Contestant) -> dict[str, Any]:
        """What a helping process must know of the plan; recipes may be files that other machines do not have."""
        return {
            "task": dump(self.task),
            "adapter": dump(contestant.adapter),
            "overrides": list(self.overrides),
            "encoder": str(self.encoder.absolute()),
            "encoder_revision": self.encoder_revision,
            "seeds": list(self.seeds),
        }
