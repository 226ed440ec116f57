"""Trials of tasks that rank items: each training, what it came to on the test events, what is recorded of its model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peterrec.adaptation import history_length
from peterrec.data.cross_domain import PairedLogs
from peterrec.data.examples import Examples
from peterrec.evaluation.cold_start import ColdStart
from peterrec.evaluation.cold_start_test import Measured
from peterrec.evaluation.ranking_arena import RankingArena
from peterrec.evaluation.resumable_trials import ResumableTrials, Trial
from peterrec.ranking_model import RankingModel
from peterrec.ranking_run import RankingFacts, save_ranking
from peterrec.ranking_transfer import fit_ranking
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.progress import Progress
from peterrec.training.ranking import queries
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Trained

_VALUE = "value "


@dataclass(frozen=True, kw_only=True)
class RankingFitted(Trained):
    """A trained contestant: its model, if that was asked for, and its figures on the test of its seed."""

    model: RankingModel | None
    measured: Measured


class RankingTrials(ResumableTrials[RankingArena, RankingFitted]):
    """Trains contestants on the training users of an arena and tests them."""

    def facts(self, contestant: Contestant) -> RankingFacts:
        """What is recorded of a contestant's model beside its weights."""
        arena = self.arena
        return RankingFacts(
            task=arena.plan.task,
            adapter=contestant.adapter,
            encoder_revision=self._encoder_revision,
            vocabulary_fingerprint=arena.pairs.source_vocabulary.fingerprint,
            target_fingerprint=arena.pairs.target_vocabulary.fingerprint,
            feature_width=0 if arena.features is None else arena.features.width,
        )

    def save(self, model: RankingModel, contestant: Contestant, *, folder: Path, base_model: str = "") -> None:
        """Writes what the model has of its own, and its catalogue, into `folder`."""
        save_ranking(
            model,
            folder=folder,
            facts=self.facts(contestant),
            target_vocabulary=self.arena.pairs.target_vocabulary,
            features=self.arena.features,
            base_model=base_model,
        )

    def _fit(self, trial: Trial, *, checkpoints: Path, tracker: Tracker, progress: Progress) -> RankingFitted:
        arena, contestant = self.arena, trial.contestant
        plan, cold = arena.plan, arena.cold
        model, trained = fit_ranking(
            contestant,
            encoder_folder=plan.encoder,
            task=plan.task,
            settings=plan.settings(contestant.adapter, seed=trial.seed, learning_rate=trial.learning_rate),
            pairs=arena.pairs,
            split=cold.splits[trial.seed],
            features=arena.features,
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )
        measured = measure_ranking(
            model, cold, seed=trial.seed, max_length=history_length(contestant.adapter, plan.task)
        )
        return RankingFitted(**vars(trained), model=model.cpu(), measured=measured)

    def _save(self, fitted: RankingFitted, trial: Trial, *, folder: Path) -> None:
        assert fitted.model is not None
        self.save(fitted.model, trial.contestant, folder=folder)

    def _without_model(self, fitted: RankingFitted) -> RankingFitted:
        return replace(fitted, model=None)

    def _packed(self, fitted: RankingFitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        measured = fitted.measured
        arrays = {"users": measured.users, "places": measured.places}
        arrays |= {f"{_VALUE}{name}": values for name, values in measured.values.items()}
        facts = {key: value for key, value in vars(fitted).items() if key not in ("model", "measured")}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        # the order of the figures, which a file of tensors does not keep
        return tensors, {"trained": facts, "coverage": measured.coverage, "names": list(measured.values)}

    def _unpacked(self, kept: Checkpoint) -> RankingFitted:
        arrays = {name: tensor.numpy() for name, tensor in kept.tensors.items()}
        values = {name: arrays[f"{_VALUE}{name}"] for name in kept.facts["names"]}
        measured = Measured(arrays["users"], values, kept.facts["coverage"], arrays["places"])
        return RankingFitted(**kept.facts["trained"], model=None, measured=measured)


def measure_ranking(model: RankingModel, cold: ColdStart, *, seed: int, max_length: int) -> Measured:
    """What a model makes of the test events of a seed, on its own device. Raises DivergedError for scores of NaN."""
    device = next(model.parameters()).device
    pairs: PairedLogs = cold.pairs
    events = cold.events(cold.splits[seed].test)
    history = "mixed" if cold.mixed else "source"
    wanted = queries(model, pairs, Examples(events), history=history, max_length=max_length, device=device)
    was_training = model.training
    model.eval()
    with torch.no_grad():

        def score(rows: slice) -> Tensor:
            return model.head.scores(wanted[rows]).float()

        measured = cold.test(seed).measure(score, device=device)
    model.train(was_training)
    return measured
