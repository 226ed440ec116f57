"""One process, one encoder, many tasks: answers mixed requests in as few passes as can be."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import NamedTuple

from peterrec.errors import DataError, SettingsError, did_you_mean
from peterrec.inference import choose_device
from peterrec.recommender import Recommender
from peterrec.serving import tasks
from peterrec.serving.engine import Route
from peterrec.serving.impression_job import ImpressionJob
from peterrec.serving.jobs import EncodeJob, Job, PredictJob, RecommendJob, queries_of
from peterrec.serving.passes import user_vectors
from peterrec.serving.placement import Placement
from peterrec.serving.requests import (
    Answer,
    Classes,
    Encode,
    Impression,
    Items,
    Outcomes,
    Predict,
    PredictImpressions,
    Recommend,
    Request,
    Vectors,
)
from peterrec.serving.shared_encoder import SharedEncoder
from peterrec.serving.tasks import Kind, ServedClasses, ServedImpressions, ServedRanking, ServedTask

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Ids = Sequence[str]


class UnknownTaskError(SettingsError):
    """No task of that name is served."""


@dataclass(frozen=True)
class TaskNote:
    """What is said of a task that is served: its `kind`, `classes` or `outputs`, and how it shares the encoder.

    `shares`: `pass`, one pass with all tasks that have nothing inside the encoder and read histories alike; `batch`,
    one batch with the tasks in `with_tasks`; `weights`, the encoder's weights, in passes of its own; `nothing`.
    `bytes` are of tensors that it has for itself.
    """

    name: str
    kind: Kind
    task: str
    adapter: str
    shares: str
    with_tasks: tuple[str, ...]
    bytes: int
    outputs: tuple[str, ...]


class Ran(NamedTuple):
    """Answers in the order of their jobs, and what they took: passes over an encoder, and rows of these."""

    answers: list[Answer]
    passes: int
    rows: int


class Server:
    """Holds the encoder of a `peterrec pretrain` folder, and tasks that `peterrec finetune` trained on it.

    Thread-safe: tasks are added and removed while requests are answered, and a request ends on what it began with.
    `continued` takes tasks of encoders from which this one went on. Raises what `SharedEncoder` raises, and
    SettingsError for a device that is not there.
    """

    def __init__(self, encoder: Path, *, device: str = "auto", continued: bool = False) -> None:
        self.shared = SharedEncoder(Path(encoder), device=choose_device(device))
        self._continued = continued
        self._changing = threading.Lock()  # one task is added or removed at a time
        self._computing = threading.Lock()  # peft hangs hooks on modules while a mixed batch runs
        self._numbers = count(1)
        self._placement = Placement()  # replaced as a whole, never changed
        self._vectors = self.shared.vectors()
        self._next: tuple[Route, Recommender] | None = None
        if self.shared.predicts_items:
            known = self.shared.vocabulary
            table = self.shared.encoder.score_table().detach()
            self._next = self.shared.next_items(), Recommender(known, known, queries_of, table)

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def add(self, name: str, folder: Path) -> TaskNote:
        """Serves the run in `folder` as the task `name`.

        Raises SettingsError for a name that is taken or cannot be one, and for a folder without a run; RefusedError
        for a run that was trained on another encoder, or is damaged.
        """
        if not NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r} cannot be the name of a task: letters, digits, - and _, at most 64, a letter or digit first."
            )
        with self._changing:
            if name in self._placement.tasks:
                raise SettingsError(f"A task {name!r} is served already; remove it first, or choose another name.")
            loaded = tasks.load(name, Path(folder), shared=self.shared, continued=self._continued)
            if isinstance(loaded, ServedRanking):
                loaded = replace(loaded, recommender=replace(loaded.recommender, vectors=queries_of))
            with self._computing:  # adapters of a batch are copied, and tried, as they stand without anybody's hooks
                self._placement = self._placement.with_task(loaded, number=next(self._numbers))
            return self._note(self._placement, name)

    def remove(self, name: str) -> None:
        """Serves the task no longer. Raises UnknownTaskError."""
        with self._changing:
            self._task(self._placement, name)
            with self._computing:
                self._placement = self._placement.without(name)

    @property
    def tasks(self) -> list[TaskNote]:
        """What is served, by name."""
        now = self._placement
        return [self._note(now, name) for name in sorted(now.tasks)]

    @property
    def recommends(self) -> bool:
        """Whether the encoder itself recommends what comes next."""
        return self._next is not None

    def _note(self, placement: Placement, name: str) -> TaskNote:
        task = placement.tasks[name]
        shares, others = placement.sharing(name)
        outputs: tuple[str, ...] = ()
        if isinstance(task, ServedClasses):
            outputs = task.classes
        elif isinstance(task, ServedImpressions):
            outputs = task.loaded.fitted.network.outputs
        recipe = getattr(task.facts, "task").name  # noqa: B009 - each kind of facts has a recipe of its own type
        return TaskNote(name, task.kind, recipe, task.facts.adapter.name, shares, others, task.bytes, outputs)

    @staticmethod
    def _task(placement: Placement, name: str) -> ServedTask:
        if name not in placement.tasks:
            raise UnknownTaskError(f"No task {name!r} is served. {did_you_mean(name, placement.tasks)}")
        return placement.tasks[name]

    # -- requests ------------------------------------------------------------------------------------------------------

    def job(self, request: Request) -> Job:
        """The request with its tasks and items looked up; it will be answered by the tasks as they are now.

        Raises UnknownTaskError, SettingsError for a task of another kind, and DataError for histories, fields or
        lists that cannot be read.
        """
        now = self._placement
        _check_ids(request.histories)
        if isinstance(request, Predict):
            if not request.tasks:
                raise SettingsError(f"tasks is empty: name at least one. {did_you_mean('', now.tasks)}".strip())
            asked = []
            for name in dict.fromkeys(request.tasks):
                task = self._task(now, name)
                if not isinstance(task, ServedClasses):
                    raise tasks.refuse_kind(task, wanted="classification")
                asked.append(task)
            return PredictJob(request.histories, asked, self.shared.lookup)
        if isinstance(request, Encode):
            return EncodeJob(request.histories, self._vectors, self.shared.lookup)
        if isinstance(request, PredictImpressions):
            task = self._task(now, request.task)
            if not isinstance(task, ServedImpressions):
                raise tasks.refuse_kind(task, wanted="impressions")
            return ImpressionJob(request, task, self.shared.lookup)
        for lists in (request.seen or (), [request.allow or ()], [request.block or ()]):
            _check_ids(lists)
        if request.task is None:
            if self._next is None:
                raise SettingsError(
                    "The encoder has learned no next items, so it recommends none by itself: name a task that ranks "
                    "items."
                )
            route, recommender = self._next
            lookup = self.shared.lookup
            return RecommendJob(request, recommender=recommender, route=route, known=lookup, catalogue=lookup)
        task = self._task(now, request.task)
        if not isinstance(task, ServedRanking):
            raise tasks.refuse_kind(task, wanted="ranking")
        assert task.route is not None
        return RecommendJob(
            request,
            recommender=task.recommender,
            route=task.route,
            known=task.known,
            catalogue=task.catalogue,
            head=task.head,
        )

    def run(self, jobs: Sequence[Job]) -> Ran:
        """Answers jobs together."""
        with self._computing:
            found = user_vectors([want for job in jobs for want in job.wants], device=self.shared.device)
            answers, first = [], 0
            for job in jobs:
                answers.append(job.answer(found.vectors[first : first + len(job.wants)]))
                first += len(job.wants)
        return Ran(answers, found.passes, found.rows)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers to requests of any kind, computed together; raises what `job` raises."""
        return self.run([self.job(request) for request in requests]).answers

    def predict(self, histories: Sequence[Ids], *, tasks: Sequence[str]) -> dict[str, Classes]:
        """Class probabilities of users by each of the tasks."""
        (found,) = self.answer([Predict(histories, tasks)])
        assert isinstance(found, dict)
        return found

    def recommend(self, histories: Sequence[Ids], *, task: str | None = None, k: int = 10) -> Items:
        """The best items for users; `Recommend` knows more options."""
        (found,) = self.answer([Recommend(histories, task=task, k=k)])
        assert isinstance(found, Items)
        return found

    def encode(self, histories: Sequence[Ids]) -> Vectors:
        """The encoder's own vectors of users."""
        (found,) = self.answer([Encode(histories)])
        assert isinstance(found, Vectors)
        return found

    def predict_impressions(self, rows: Sequence[Impression], *, task: str, histories: Sequence[Ids] = ()) -> Outcomes:
        """What will follow impressions."""
        (found,) = self.answer([PredictImpressions(task, rows, histories)])
        assert isinstance(found, Outcomes)
        return found


def _check_ids(lists: Sequence[Ids]) -> None:
    """Raises DataError where an item id is not text, or a list of ids is a text itself."""
    for number, ids in enumerate(lists):
        if isinstance(ids, str) or not all(isinstance(one, str) for one in ids):
            raise DataError(f"list {number}: item ids are text, in a list for each user; write 1 as '1'.")
