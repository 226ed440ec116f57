"""The baselines of a cold start: fitted on the training users, their settings chosen on the validation users."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.baselines.cross_item_knn import CrossItemKNN
from peterrec.baselines.popularity import PopularityRanker
from peterrec.baselines.ridge import Ridge
from peterrec.baselines.user_knn import UserKNN
from peterrec.data.target_events import target_counts
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.evaluation.cold_start import ColdStart, Entrant
from peterrec.evaluation.cold_start_test import MAIN, Measured, Scorer
from peterrec.evaluation.cross_examples import CrossExamples, histories_of, items_read
from peterrec.metrics.ranking import Histories

Ints = NDArray[np.int64]
NAMES = ("popularity", "item_knn", "user_knn", "ridge", "item_knn_recent", "ridge_recent")
# what is tried: whole histories, a row a training user (and for ridge the events as they are tested) …
NEIGHBOURS, RECENT_READ = (50, 200), (None, 20)
USERS_NEAR = (50, 100, 200, 500)
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
# … and short ones, a row a training event
WINDOWS, SHRINKAGES = (1, 3, 5, 10, 20), (0.0, 10.0)
RIDGE_WINDOWS, EVENT_PENALTIES = (5, 10, 20), (10.0, 30.0, 100.0, 300.0)
# the most that is counted or solved
PRODUCTS, SIDE, CELLS = 2_000_000_000, 8_000, 2**27


class Baseline(Protocol):
    """A fitted scorer of target items."""

    def scores(self, histories: Histories) -> NDArray[np.floating]: ...


@dataclass(frozen=True)
class _Tried:
    """One choice of settings, fitted; `recent` is how many events of a history it reads, None for all."""

    settings: dict[str, Any]
    baseline: Baseline
    recent: int | None = None


def cold_start_baselines(arena: ColdStart) -> tuple[list[Entrant], list[str]]:
    """The baselines on every split of `arena`, and sentences on those that the logs are too large for.

    popularity is that of target items among the training users. item_knn, user_knn and ridge read whole histories (or
    more of them than not); item_knn_recent and ridge_recent the last few events, and learn from all target events of
    the training users. Each row of results says under `chosen` which settings did best on the validation users.
    """
    measured: dict[str, dict[int, Measured]] = {name: {} for name in NAMES}
    chosen: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
    seconds = dict.fromkeys(NAMES, 0.0)
    skipped: dict[str, str] = {}
    for seed in arena.splits:
        school = _School(arena, seed)
        for name in NAMES:
            told = skipped.get(name) or school.too_large(name)
            if told:
                skipped[name] = told
                continue
            started = time.perf_counter()
            best, value = school.choose(name)
            seconds[name] += time.perf_counter() - started
            measured[name][seed] = school.test.measure(school.scorer(best, school.tested))
            chosen[name].append({"seed": seed, **best.settings, "validation": value})
    entrants = [
        Entrant(
            name, "baseline", measured[name], {"seconds": seconds[name] / len(arena.splits), "chosen": chosen[name]}
        )
        for name in NAMES
        if name not in skipped
    ]
    return entrants, [f"{name} is skipped: {told}." for name, told in skipped.items()]


class _Sizes(TypedDict):
    num_sources: int
    num_targets: int


class _School:
    """Teaches the baselines on the split of one seed."""

    def __init__(self, arena: ColdStart, seed: int) -> None:
        split, pairs = arena.splits[seed], arena.pairs
        self.arena = arena
        self.tested, self.test = arena.events(split.test), arena.test(seed)
        self._validated, self._validation = arena.events(split.validation), arena.validation(seed)
        self._popular = PopularityRanker(target_counts(pairs, split.train))
        self._users = CrossExamples.of_users(pairs, split.train, mixed=arena.mixed)
        self._alike = arena.events(split.train)
        self._events = arena.events(split.train, which="all")
        self._sizes: _Sizes = {
            "num_sources": items_read(pairs, mixed=arena.mixed),
            "num_targets": len(pairs.target_vocabulary) - FIRST_ITEM,
        }

    def scorer(self, tried: _Tried, events: Ints) -> Scorer:
        """Scores the target `events` (n,) by a baseline, from what their users had before them."""

        def score(rows: slice) -> torch.Tensor:
            read = histories_of(self.arena.pairs, events[rows], mixed=self.arena.mixed, recent=tried.recent)
            return torch.from_numpy(np.array(tried.baseline.scores(read)))  # popularity hands out a read-only view

        return score

    def choose(self, name: str) -> tuple[_Tried, float]:
        """What does best on the validation users, and its NDCG@10 there; of equals the first that is tried."""
        best: tuple[_Tried, float] | None = None
        for tried in self._tried(name):
            figures = self._validation.measure(self.scorer(tried, self._validated)).values
            value = float(figures[MAIN].mean())
            if best is None or value > best[1]:
                best = tried, value
        assert best is not None
        return best

    def too_large(self, name: str) -> str | None:
        """Why the logs are too large for a baseline; None where they are not."""
        counted, systems = 0, list[int]()
        if name == "item_knn":
            counted = self._users.pairs_of_items()
        elif name == "user_knn":
            counted = self._products()
        elif name == "item_knn_recent":
            counted = len(self._events) * max(WINDOWS)
        elif name == "ridge":
            counted = max(_squares(self._users), self._users.pairs_of_items())
            systems = [len(self._users.sources[1]), len(self._alike)]
        elif name == "ridge_recent":
            counted = len(self._events) * max(RIDGE_WINDOWS) ** 2
            systems = [len(self._events)]
        if counted > PRODUCTS:
            return f"it would count {counted:,} pairs, {PRODUCTS:,} at most are counted"
        read, taken = self._sizes["num_sources"], self._sizes["num_targets"]
        side = max((min(rows, read) for rows in systems), default=0)
        if side > SIDE:
            return f"it would solve {side:,} equations, {SIDE:,} at most are solved"
        if max(systems, default=0) >= read and read * taken > CELLS:
            return f"its map would have {read:,} × {taken:,} coefficients, {CELLS:,} at most"
        return None

    def _products(self) -> int:
        """How many products of a training and a test user's item user neighbours take."""
        held = np.concatenate([self.tested, self._validated])
        read = histories_of(self.arena.pairs, held, mixed=self.arena.mixed)[0]
        rows = FIRST_ITEM + self._sizes["num_sources"]
        ours, theirs = (np.bincount(flat, minlength=rows) for flat in (self._users.sources[0], read))
        return int(np.dot(ours.astype(np.int64), theirs.astype(np.int64)))

    def _tried(self, name: str) -> Iterator[_Tried]:
        """Every choice of settings of a baseline, fitted on the training users."""
        if name == "popularity":
            yield _Tried({}, self._popular)
        elif name == "item_knn":
            for count, recent in product(NEIGHBOURS, RECENT_READ):
                knn = CrossItemKNN.fit(
                    self._users.sources, self._users.targets, neighbours=count, shrinkage=10.0, **self._sizes
                )
                yield _Tried({"neighbours": count, "recent": recent}, knn, recent)
        elif name == "item_knn_recent":
            for window, shrinkage in product(WINDOWS, SHRINKAGES):
                rows = self._of_events(self._events, recent=window)
                knn = CrossItemKNN.fit(rows.sources, rows.targets, neighbours=200, shrinkage=shrinkage, **self._sizes)
                yield _Tried({"recent": window, "shrinkage": shrinkage}, knn, window)
        elif name == "user_knn":
            for count in USERS_NEAR:
                knn = UserKNN.fit(self._users.sources, self._users.targets, neighbours=count, **self._sizes)
                yield _Tried({"neighbours": count}, knn)
        elif name == "ridge":
            for rows, told in ((self._users, "users"), (self._of_events(self._alike), "events")):
                for ridge in Ridge.path(rows.sources, rows.targets, penalties=PENALTIES, **self._sizes):
                    yield _Tried({"rows": told, "penalty": ridge.penalty}, ridge)
        else:
            for window in RIDGE_WINDOWS:
                rows = self._of_events(self._events, recent=window)
                for ridge in Ridge.path(rows.sources, rows.targets, penalties=EVENT_PENALTIES, **self._sizes):
                    yield _Tried({"recent": window, "penalty": ridge.penalty}, ridge, window)

    def _of_events(self, events: Ints, *, recent: int | None = None) -> CrossExamples:
        return CrossExamples.of_events(self.arena.pairs, events, mixed=self.arena.mixed, recent=recent)


def _squares(rows: CrossExamples) -> int:
    return int(np.square(rows.sources[1].astype(np.int64)).sum())
