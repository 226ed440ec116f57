"""A request once its tasks are found and its ids looked up: which vectors it wants, and what it makes of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import DataError, SettingsError
from peterrec.recommender import Recommender
from peterrec.serving.engine import Route
from peterrec.serving.histories import Histories
from peterrec.serving.item_lookup import ItemLookup
from peterrec.serving.passes import Want
from peterrec.serving.requests import Answer, Classes, Items, Read, Recommend, Vectors
from peterrec.serving.tasks import ServedClasses

Ints = NDArray[np.int64]


class Job(ABC):
    """One request. What it was made with stays as it is, whatever is added or removed meanwhile."""

    wants: Sequence[Want] = ()
    rows: int  # that it asks for, for bounds and counts

    @abstractmethod
    def answer(self, vectors: Sequence[Tensor]) -> Answer:
        """The answer, from the vectors of its wants."""


class PredictJob(Job):
    """Class probabilities by several tasks."""

    def __init__(self, histories: Sequence[Sequence[str]], tasks: Sequence[ServedClasses], lookup: ItemLookup) -> None:
        self.tasks = tasks
        self.histories = lookup.histories(histories)
        self.events = events_of(histories)
        self.rows = len(histories) * len(tasks)
        self.known = np.flatnonzero(self.histories.lengths > 0)
        self.wants = [Want(_route(task), self.histories, self.known) for task in tasks]

    @torch.no_grad()
    def answer(self, vectors: Sequence[Tensor]) -> dict[str, Classes]:
        found = {}
        for task, own in zip(self.tasks, vectors, strict=True):
            probabilities = np.tile(np.asarray(task.prior), (len(self.histories), 1))
            if len(self.known):
                logits = task.head(_for(own, task.head), domain_ids=None)
                probabilities[self.known] = torch.softmax(logits.double(), dim=1).cpu().numpy()
            read = read_of(self.events, self.histories, _route(task))
            found[task.name] = Classes(task.classes, probabilities, read)
        return found


class EncodeJob(Job):
    """The encoder's own vectors."""

    def __init__(self, histories: Sequence[Sequence[str]], route: Route, lookup: ItemLookup) -> None:
        self.histories, self.route = lookup.histories(histories), route
        self.events = events_of(histories)
        self.rows = len(histories)
        self.wants = [Want(route, self.histories, np.arange(len(histories)))]

    def answer(self, vectors: Sequence[Tensor]) -> Vectors:
        return Vectors(vectors[0].numpy(), read_of(self.events, self.histories, self.route))


class Queried(Histories):
    """Histories of which the `queries` `(N, D)` are known already."""

    queries: Tensor


def queries_of(histories: Sequences, rows: Ints) -> Tensor:
    """What a recommender takes as the vectors of histories: queries that passes have computed."""
    assert isinstance(histories, Queried)
    return histories.queries[torch.from_numpy(rows)]


class RecommendJob(Job):
    """The best items of a catalogue. `head` makes queries of user vectors, None: they are the queries."""

    def __init__(
        self,
        request: Recommend,
        *,
        recommender: Recommender,
        route: Route,
        known: ItemLookup,
        catalogue: ItemLookup,
        head: torch.nn.Module | None = None,
    ) -> None:
        self.recommender, self.route, self.head, self.catalogue = recommender, route, head, catalogue
        told = request.histories
        found = known.histories(told)
        self.histories = Queried(found.flat, found.lengths)
        self.events = events_of(told)
        self.rows = len(told)
        self.told = np.flatnonzero(self.histories.lengths > 0)
        self.wants = [Want(route, self.histories, self.told)]
        self.seen = self._seen(request)
        self.allowed = _listed(request.allow, "allow", catalogue)
        self.blocked = None if not request.block else _listed(request.block, "block", catalogue)
        most = recommender.catalogue.num_items if self.allowed is None else len(self.allowed)
        if request.k < 1:
            raise SettingsError(f"k is {request.k}: at least one item must be asked for.")
        self.k = min(request.k, max(most, 1))
        self.read = self._read(told)

    def _seen(self, request: Recommend) -> tuple[Ints, Ints] | None:
        """What is no candidate: rows of the catalogue, and how many are each user's."""
        told = self.recommender.next_items or self.recommender.one_log
        if request.seen is not None and len(request.seen) != len(request.histories):
            raise DataError(
                f"seen has {len(request.seen)} lists and histories {len(request.histories)}: give one for each history."
            )
        if request.remove_seen is False:
            if request.seen is not None:
                raise SettingsError("seen says which items to remove, and remove_seen = false removes none.")
            return None
        if request.remove_seen and not told and request.seen is None:
            raise SettingsError(
                "remove_seen: the histories do not say what the users have had of this catalogue; give those items in "
                "seen."
            )
        if not told and request.seen is None:
            return None
        empty: list[Sequence[str]] = [()] * len(request.histories)
        own = request.histories if told else empty
        more = empty if request.seen is None else request.seen
        seen = self.catalogue.histories([[*first, *second] for first, second in zip(own, more, strict=True)])
        return seen.flat.astype(np.int64), seen.lengths

    @torch.no_grad()
    def answer(self, vectors: Sequence[Tensor]) -> Items:
        queries = vectors[0]
        if self.head is not None and len(self.told):
            queries = self.head.query(_for(queries, self.head)).float()  # type: ignore[operator]
        if len(self.told):
            self.histories.queries = queries.new_zeros(len(self.histories), queries.shape[1])
            self.histories.queries[torch.from_numpy(self.told)] = queries
        found = self.recommender.recommend(
            self.histories,
            rows=np.arange(len(self.histories)),
            k=self.k,
            seen=self.seen,
            allowed=self.allowed,
            blocked=self.blocked,
        )
        items, scores = [], []
        names = self.recommender.catalogue.items
        for row, own, count in zip(found.items, found.scores, found.counts, strict=True):
            items.append(names.take((row[:count] - FIRST_ITEM).tolist()).to_pylist())
            scores.append(own[:count].tolist())
        return Items(items, scores, found.by_popularity, self.read)

    def _read(self, told: Sequence[Sequence[str]]) -> Read:
        read = read_of(self.events, self.histories, self.route)
        if not self.recommender.one_log or self.recommender.mixed:
            return read
        # items of the catalogue are no part of these histories, and not unknown either
        return Read(read.events, read.unknown - self.catalogue.histories(told).lengths, read.used)


def events_of(histories: Sequence[Sequence[str]]) -> Ints:
    """How many events each history has `(N,)`."""
    return np.array([len(one) for one in histories], dtype=np.int64)


def read_of(events: Ints, histories: Histories, route: Route) -> Read:
    """What is read of histories `histories`, which had `events` `(N,)` before unknown items were left out."""
    return Read(events, events - histories.lengths, route.reading.events(histories.lengths))


def _route(task: ServedClasses) -> Route:
    assert task.route is not None
    return task.route


def _for(vectors: Tensor, head: torch.nn.Module) -> Tensor:
    """User vectors where, and as precise as, the head's weights are."""
    like = next(head.parameters())
    return vectors.to(like.device, like.dtype)


def _listed(ids: Sequence[str] | None, name: str, catalogue: ItemLookup) -> Ints | None:
    if ids is None:
        return None
    rows = np.unique(catalogue.rows(ids)).astype(np.int64)
    rows = rows[rows >= 0]
    if not len(rows) and name == "allow":
        raise DataError(f"{name}: none of its {len(ids)} items is in the catalogue; give ids as in the log.")
    return rows
