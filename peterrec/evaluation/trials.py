"""Trials of tasks with classes: each training, its test probabilities and what is recorded of its model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peterrec.baselines.majority import Majority
from peterrec.evaluation.arena import Arena
from peterrec.evaluation.resumable_trials import ResumableTrials
from peterrec.evaluation.resumable_trials import Trial as Trial
from peterrec.task_run import TaskFacts, save_task
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Fitted, fit

_PROBABILITIES = "probabilities"


class Trials(ResumableTrials[Arena, Fitted]):
    """Trains contestants on the labelled users of an arena."""

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

    def _fit(self, trial: Trial, *, checkpoints: Path, tracker: Tracker, progress: Progress) -> Fitted:
        plan, contestant = self.arena.plan, trial.contestant
        return fit(
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
            progress=progress,
            keep_model=True,
        )

    def _save(self, fitted: Fitted, trial: Trial, *, folder: Path) -> None:
        assert fitted.model is not None
        save_task(fitted.model, folder=folder, facts=self.facts(trial.contestant, seed=trial.seed))

    def _without_model(self, fitted: Fitted) -> Fitted:
        return replace(fitted, model=None)

    def _packed(self, fitted: Fitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        facts = {key: value for key, value in vars(fitted).items() if key not in ("model", _PROBABILITIES)}
        return {_PROBABILITIES: torch.from_numpy(fitted.probabilities)}, facts

    def _unpacked(self, kept: Checkpoint) -> Fitted:
        return Fitted(model=None, probabilities=kept.tensors[_PROBABILITIES].numpy(), **kept.facts)
