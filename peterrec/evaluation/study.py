"""The interface of a study: one kind of task on its data and splits, as fine-tuning and comparing see it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import pyarrow as pa
from torch import Tensor, nn

from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.training_plan import TrainingPlan
from peterrec.evaluation.trial import ContestantT, ResultT, Trial
from peterrec.run_folder import RunFolder
from peterrec.settings import Settings
from peterrec.training.checkpoint import Checkpoint
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

PlanT = TypeVar("PlanT", bound=TrainingPlan[Any])


class Planned(Protocol):
    """The data of a plan, with the splits."""

    @property
    def plan(self) -> TrainingPlan[Any]: ...


class TaskStudy(ABC, Generic[PlanT, ContestantT, ResultT]):
    """A plan with its data and splits: who trains on them how, what comes of it, and what a run keeps of it.

    One class a kind of task; `studies.STUDIES` names them.
    """

    # Opening

    @classmethod
    @abstractmethod
    def resolve(cls, request: StudyRequest) -> PlanT:
        """Reads the recipe and the settings, no data. Raises SettingsError for what does not go with this kind."""

    @classmethod
    @abstractmethod
    def open(cls, plan: PlanT, request: StudyRequest) -> AbstractContextManager[Self]:
        """Opens the data and splits them; what is temporary goes when the block ends. Raises what reading raises."""

    @property
    @abstractmethod
    def arena(self) -> Planned:
        """Plan, data and splits."""

    @property
    @abstractmethod
    def plan(self) -> PlanT:
        """What is trained how."""

    # What is recorded of the data

    @abstractmethod
    def recorded(self) -> dict[str, Any]:
        """What decides, beside recipes, settings and seeds, whether an interrupted run may go on.

        `data` is the fingerprint of the data; `encoder_revision` says which encoder it is, if there is one.
        """

    def uses(self) -> list[str]:
        """The artifacts of a tracker that a run hangs on."""
        revision = self.recorded().get("encoder_revision")
        return [] if revision is None else [f"encoder-{revision}"]

    @property
    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What the page tells of the data."""

    @abstractmethod
    def inputs(self, folder: Path) -> dict[str, str]:
        """The `inputs` of run.json: encoder and data as seen from the run's `folder`."""

    def kept_in(self, folder: RunFolder) -> Self:
        """The study whose data stand in the run's folder, where this kind keeps them there; else itself."""
        return self

    # Training

    @abstractmethod
    def train(self, trial: Trial[ContestantT], *, checkpoints: Path, tracker: Tracker, progress: Progress) -> ResultT:
        """Trains and tests; the model, on the CPU, is among the result. Raises DivergedError."""

    @abstractmethod
    def save(
        self, model: nn.Module, contestant: ContestantT, *, seed: int, folder: Path, base_model: str = ""
    ) -> Settings:
        """Writes what the model has of its own into `folder`; what run.json says of it.

        `base_model` is as for `save_task`.
        """

    @abstractmethod
    def packed(self, result: ResultT) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of a result but the model, as tensors and as what JSON holds."""

    @abstractmethod
    def unpacked(self, kept: Checkpoint) -> ResultT:
        """What `packed` packed."""

    # Results

    @abstractmethod
    def measured(self, contestant: ContestantT, fitted: Mapping[int, ResultT]) -> dict[str, Any]:
        """`protocol`, `metric`, `results`, `gains` of one model (by seed) beside the baselines, for metrics.json."""

    @abstractmethod
    def compared(
        self, field: Sequence[tuple[ContestantT, str]], found: Mapping[str, Searched[ResultT]], *, effort: str
    ) -> dict[str, Any]:
        """The same of several, with `reference`: their rows stand first, in the order of `field`, then the baselines.

        A row holds what `Searched.facts` says; the protocol holds the sentence `effort`.
        """

    @abstractmethod
    def predictions(self, fitted: Mapping[int, ResultT]) -> pa.Table:
        """What a contestant made of the test of every seed, with a column `seed`."""

    @abstractmethod
    def write_split(self, folder: Path, *, seed: int) -> None:
        """Writes who or what was in which part into `folder`."""

    # Commands for a reader

    @abstractmethod
    def usage(self, folder: Path) -> list[str]:
        """Commands that use the run in `folder`."""

    @abstractmethod
    def retraining(self, contestant: ContestantT, *, learning_rate: float) -> list[str]:
        """Commands that train a contestant of a comparison again."""

    # Several processes

    @abstractmethod
    def job(self, contestant: ContestantT) -> dict[str, Any]:
        """What `helper` needs, as JSON, the dumped `task` among it; recipes may be files that other machines lack."""

    @classmethod
    @abstractmethod
    def helper(cls, job: Mapping[str, Any]) -> tuple[Self, ContestantT]:
        """The study and the contestant of a `job` in another process.

        Raises RefusedError where encoder or data are not there, or other ones than the main process's.
        """

    @abstractmethod
    def help(self, trial: Trial[ContestantT]) -> None:
        """Takes part in a training of the main process, which alone tests, writes and speaks."""
