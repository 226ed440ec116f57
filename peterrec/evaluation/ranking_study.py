"""The study of a task that ranks items: the users of two domains, on their joined logs."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
from torch import Tensor, nn

from peterrec.adaptation import history_length
from peterrec.catalogue import AdapterRecipe, RankingTask
from peterrec.data.cross_domain import open_pairs
from peterrec.data.domain_logs import DomainLogs
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.evaluation.ranking_arena import (
    RankingArena,
    RankingPlan,
    open_ranking_arena,
    pair_logs,
    resolve_ranking,
)
from peterrec.evaluation.ranking_fitted import RankingFitted, measure_ranking, pack_ranking, unpack_ranking
from peterrec.evaluation.ranking_results import entrant_of, ranked_places, ranking_results
from peterrec.evaluation.recommend_command import recommend_commands
from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.split_file import write_split
from peterrec.evaluation.study import TaskStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.training_plan import finetune_command
from peterrec.evaluation.trial import Trial
from peterrec.ranking_model import RankingModel
from peterrec.ranking_run import RankingFacts, save_ranking
from peterrec.ranking_transfer import fit_ranking
from peterrec.report.pairs_summary import pairs_summary
from peterrec.run_folder import RunFolder
from peterrec.run_record import relative_to_run
from peterrec.run_weights import weights_digest
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Trained

PAIRS = "pairs"


class RankingStudy(TaskStudy[RankingPlan, Contestant, RankingFitted]):
    """The items of a target domain, for users known in a source domain.

    The joined logs are temporary until a run keeps them, as `pairs`, for `peterrec evaluate`. Without `request` it is a
    helper's, which only trains.
    """

    def __init__(self, arena: RankingArena, *, request: StudyRequest | None = None) -> None:
        self._arena = arena
        self._request = request

    @property
    def arena(self) -> RankingArena:
        return self._arena

    @property
    def plan(self) -> RankingPlan:
        return self._arena.plan

    @classmethod
    def resolve(cls, request: StudyRequest) -> RankingPlan:
        request.refuse_more_tasks()
        encoder, logs = _named(request)
        if request.data is not None or request.labels is not None:
            raise SettingsError(
                f"task {request.task} ranks the items of a target domain: it reads raw logs, no prepared folder, and "
                "has no labels."
            )
        return resolve_ranking(
            request.task, encoder=encoder, logs=logs, seeds=request.seeds, overrides=request.overrides
        )

    @classmethod
    @contextmanager
    def open(cls, plan: RankingPlan, request: StudyRequest) -> Iterator[Self]:
        with tempfile.TemporaryDirectory(prefix="peterrec-") as work:
            pairs = pair_logs(
                plan,
                _named(request)[1],
                folder=Path(work) / PAIRS,
                bad_rows=request.bad_rows,
                memory_limit=request.memory_limit,
            )
            yield cls(open_ranking_arena(plan, pairs), request=request)

    def recorded(self) -> dict[str, Any]:
        return {
            "encoder_revision": self.plan.encoder_revision,
            "vocabulary": self.arena.pairs.source_vocabulary.fingerprint,
            "data": self.arena.pairs.fingerprint,
        }

    @property
    def summary(self) -> dict[str, Any]:
        return pairs_summary(self.arena.pairs.summary)

    def inputs(self, folder: Path) -> dict[str, str]:
        kept = {"data": PAIRS} if self.arena.pairs.folder == folder / PAIRS else {}
        return {
            "encoder": relative_to_run(self.plan.encoder, folder),
            **kept,
            "data_fingerprint": self.arena.pairs.fingerprint,
        }

    def kept_in(self, folder: RunFolder) -> Self:
        """Moves the paired log into the run's folder, unless an interrupted run has left it there."""
        place = folder.path / PAIRS
        if not (folder.resumed and place.is_dir()):
            with folder.folder(PAIRS) as temporary:
                for entry in self.arena.pairs.folder.iterdir():
                    shutil.move(entry, temporary / entry.name)
        return type(self)(open_ranking_arena(self.plan, open_pairs(place)), request=self._request)

    def train(
        self, trial: Trial[Contestant], *, checkpoints: Path, tracker: Tracker, progress: Progress
    ) -> RankingFitted:
        model, trained = self._fit(trial, checkpoints=checkpoints, tracker=tracker, progress=progress)
        length = history_length(trial.contestant.adapter, self.plan.task)
        measured = measure_ranking(model, self.arena.cold, seed=trial.seed, max_length=length)
        return RankingFitted(**vars(trained), model=model.cpu(), measured=measured)

    def help(self, trial: Trial[Contestant]) -> None:
        self._fit(trial, checkpoints=None, tracker=Tracker(), progress=Progress("silent"))

    def save(
        self, model: nn.Module, contestant: Contestant, *, seed: int, folder: Path, base_model: str = ""
    ) -> RankingFacts:
        assert isinstance(model, RankingModel)
        pairs, features = self.arena.pairs, self.arena.features
        facts = RankingFacts(
            task=self.plan.task,
            adapter=contestant.adapter,
            encoder_revision=self.plan.encoder_revision,
            vocabulary_fingerprint=pairs.source_vocabulary.fingerprint,
            target_fingerprint=pairs.target_vocabulary.fingerprint,
            feature_width=0 if features is None else features.width,
        )
        save_ranking(
            model,
            folder=folder,
            facts=facts,
            target_vocabulary=pairs.target_vocabulary,
            features=features,
            base_model=base_model,
        )
        return facts.model_copy(update={"weights": weights_digest(folder, facts)})

    def packed(self, result: RankingFitted) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return pack_ranking(result)

    def unpacked(self, kept: Checkpoint) -> RankingFitted:
        return unpack_ranking(kept)

    def measured(self, contestant: Contestant, fitted: Mapping[int, RankingFitted]) -> dict[str, Any]:
        found = ranking_results(self.arena, [entrant_of(contestant.name, "model", fitted)])
        return {**found, "reference": None}  # one model has nothing to be measured against but baselines

    def compared(
        self, field: Sequence[tuple[Contestant, str]], found: Mapping[str, Searched[RankingFitted]], *, effort: str
    ) -> dict[str, Any]:
        entrants = [
            entrant_of(one.name, role, found[one.name].fitted, **found[one.name].facts()) for one, role in field
        ]
        return ranking_results(self.arena, entrants, effort=effort)

    def predictions(self, fitted: Mapping[int, RankingFitted]) -> pa.Table:
        return ranked_places(fitted, self.arena)

    def write_split(self, folder: Path, *, seed: int) -> None:
        write_split(folder, users=self.arena.pairs.users.array.to_pylist(), split=self.arena.cold.splits[seed])

    def usage(self, folder: Path) -> list[str]:
        assert self._request is not None
        return recommend_commands(folder, _named(self._request)[1], mixed=self.arena.cold.mixed)

    def retraining(self, contestant: Contestant, *, learning_rate: float) -> list[str]:
        assert self._request is not None
        words = ["--task", self.plan.source, "--adapter", contestant.source, "--encoder", str(self.plan.encoder)]
        return finetune_command(self.plan, [*words, *self._request.log_words], learning_rate=learning_rate)

    def job(self, contestant: Contestant) -> dict[str, Any]:
        pairs = self.arena.pairs
        folder = str(pairs.folder.absolute())
        return {**self.plan.job(contestant), "pairs": folder, "fingerprint": pairs.fingerprint}

    @classmethod
    def helper(cls, job: Mapping[str, Any]) -> tuple[Self, Contestant]:
        recipe = AdapterRecipe.model_validate(job["adapter"])
        plan = RankingPlan(
            task=RankingTask.model_validate(job["task"]),
            overrides=tuple(job["overrides"]),
            encoder=Path(job["encoder"]),
            seeds=tuple(job["seeds"]),
            source=job["task"]["name"],
        )
        try:
            pairs = open_pairs(Path(job["pairs"]))
        except DataError as problem:
            raise RefusedError(f"{problem} Name an --output that every machine of the launch can read.") from None
        if (pairs.fingerprint, plan.encoder_revision) != (job["fingerprint"], job["encoder_revision"]):
            raise RefusedError(
                f"{job['pairs']} or {plan.encoder}: not that of the main process; copy its folders to this machine."
            )
        return cls(open_ranking_arena(plan, pairs)), Contestant(recipe.name, recipe)

    def _fit(
        self, trial: Trial[Contestant], *, checkpoints: Path | None, tracker: Tracker, progress: Progress
    ) -> tuple[RankingModel, Trained]:
        return fit_ranking(
            trial.contestant,
            encoder_folder=self.plan.encoder,
            task=self.plan.task,
            settings=self.plan.settings_of(trial.contestant, seed=trial.seed, learning_rate=trial.learning_rate),
            pairs=self.arena.pairs,
            split=self.arena.cold.splits[trial.seed],
            features=self.arena.features,
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )


def _named(request: StudyRequest) -> tuple[Path, DomainLogs]:
    """Encoder and logs of a request. Raises SettingsError where one is not named."""
    if request.encoder is None or request.logs is None:
        raise SettingsError(
            f"task {request.task} ranks the items of a target domain by what an encoder says of a user: name the "
            "encoder, and the logs of both domains."
        )
    return request.encoder, request.logs
