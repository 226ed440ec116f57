"""How well an encoder and the baselines predict the next item: full ranking, ties by expectation, intervals."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.baselines.item_knn import ItemKNN
from peterrec.baselines.markov import MarkovRanker
from peterrec.baselines.popularity import PopularityRanker
from peterrec.data.prepared import PreparedLog
from peterrec.data.sequences import Sequences
from peterrec.data.synthetic import Histories as WorldHistories
from peterrec.data.synthetic import World
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.evaluation.world import world_of
from peterrec.inference import next_item_states, rank_vectors, targets_of, whole_histories
from peterrec.metrics.intervals import RankingRows, metric_intervals, paired_gain
from peterrec.metrics.ranking import Histories, Ranks, rank_scores, ranking_metrics

KS = (10, 5, 20)
MAIN = "ndcg@10"
KEPT = " (history kept)"
BLOCK_USERS, BLOCK_EVENTS = 20_000, 2**22  # users whose histories are in memory at a time
COUNTED_ITEMS, COUNTED_EVENTS = 50_000, 20_000_000  # the most for which pairs of items are counted
ORACLE_USERS = 10_000

Ints = NDArray[np.int64]
Rank = Callable[[Histories | None], Ranks]
"""Ranks the targets of one block of users, among all items but those of the given histories."""


class Baseline(Protocol):
    """A fitted scorer of items."""

    def scores(self, histories: Histories) -> NDArray[np.floating]: ...


@dataclass
class Contestant:
    """Who is ranked: `block` makes ready to rank the test users `rows` `(B,)`; `facts` stand in its row of results."""

    name: str
    role: str
    block: Callable[[Ints], Rank]
    facts: dict[str, Any] = field(default_factory=dict)


def evaluate_next_item(
    prepared: PreparedLog,
    *,
    encoder: UserEncoder,
    device: torch.device,
    model_facts: dict[str, Any],
    test_users: int = 100_000,
) -> dict[str, Any]:
    """The `protocol`, `results` and `gains` of an encoder beside popularity, item-kNN and the first-order Markov chain.

    `model_facts` (trained parameters, share, seconds) stand in the encoder's row. Of more than `test_users` users a
    seeded sample is ranked. On the embedded world its oracle is the ceiling. Raises DataError where the test part is
    empty.
    """
    test = prepared.sequences("test")
    if not len(test):
        raise DataError(f"{prepared.folder}: the test part has no users; prepare the log with another split.")
    users = _sample(len(test), test_users)
    contestants = [_encoder(encoder, test, device=device, facts=model_facts)]
    baselines, skipped = _baselines(prepared, test)
    contestants += baselines
    world = world_of(prepared) if len(users) <= ORACLE_USERS else None
    if world is not None:
        block = _by_scores(_Oracle(world, prepared.vocabulary), test, prepared.vocabulary.num_items)
        contestants.append(Contestant("oracle", "ceiling", block))
    results, rows = [], {}
    for contestant in contestants:
        rows[contestant.name] = [RankingRows(users, _figures(contestant, test, users))]
        metrics = metric_intervals(rows[contestant.name])
        results.append({"name": contestant.name, "role": contestant.role, "metrics": metrics, **contestant.facts})
    gains = []
    for name in list(rows)[1:]:
        gain = paired_gain(rows["encoder"], rows[name], metric=MAIN)
        if gain is not None:
            gains.append({"metric": MAIN, "of": "encoder", "over": name, **vars(gain)})
    told = _protocol(prepared, test, users=users, skipped=skipped, oracle=world is not None)
    return {"protocol": told, "metric": MAIN, "results": results, "gains": gains}


def _protocol(prepared: PreparedLog, test: Sequences, *, users: Ints, skipped: list[str], oracle: bool) -> str:
    """In words: what is ranked against what, and what is left out."""
    split, part = prepared.summary["split"], prepared.summary["parts"]["test"]
    sampled = f", a seeded sample of the {len(test):,} there are" if len(users) < len(test) else ""
    told = [
        f"Next item on the test part of the split {split['name']} ({len(users):,} users{sampled}): "
        f"each user's held-out item is ranked among all {prepared.vocabulary.num_items:,} items, those that the user "
        "has had removed (figures marked “history kept” leave them in). Ties count by their expectation; 95 % "
        "bootstrap intervals over users; seconds are training or fitting time."
    ]
    if unseen := part.get("unseen_targets", 0):
        told.append(f"{unseen:,} targets that training never saw are left out.")
    if lonely := part.get("without_history", 0):
        told.append(f"{lonely:,} users without any known item before their target are left out.")
    if skipped:
        told.append(
            f"{' and '.join(skipped)}: skipped, since the log is too large to count pairs of items (at most "
            f"{COUNTED_ITEMS:,} items and {COUNTED_EVENTS:,} training events)."
        )
    if oracle:
        missing = part.get("unseen_events", 0)
        but = f", without {missing:,} events of items that training never saw" if missing else ""
        told.append(f"The oracle knows the equations of the embedded world and reads the same histories{but}.")
    return " ".join([*told, split["caveat"]])


def _sample(count: int, limit: int) -> Ints:
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng((count, 13)).choice(count, size=limit, replace=False))


def _figures(contestant: Contestant, test: Sequences, users: Ints) -> dict[str, NDArray[np.float64]]:
    """Each user's metrics, block by block; every user is encoded or scored for both ways of ranking."""
    removed, kept = [], []
    for rows in _blocks(test, users):
        rank = contestant.block(rows)
        removed.append(rank(whole_histories(test, rows)))
        kept.append(rank(None))
    values = ranking_metrics(Ranks.joined(removed), ks=KS)
    of_kept = ranking_metrics(Ranks.joined(kept), ks=KS[:1])
    return values | {f"{metric}{KEPT}": column for metric, column in of_kept.items()}


def _blocks(sequences: Sequences, users: Ints) -> Iterator[Ints]:
    """The `users` in order, cut into blocks of bounded users and events (a block holds one user at least)."""
    events = np.cumsum(sequences.lengths[users])
    first = 0
    while first < len(users):
        before = int(events[first - 1]) if first else 0
        fitting = int(np.searchsorted(events, before + BLOCK_EVENTS, side="right"))
        last = min(max(fitting, first + 1), first + BLOCK_USERS)
        yield users[first:last]
        first = last


def _encoder(encoder: UserEncoder, test: Sequences, *, device: torch.device, facts: dict[str, Any]) -> Contestant:
    def block(rows: Ints) -> Rank:
        length = encoder.config.max_length
        vectors = next_item_states(encoder, test, rows=rows, max_length=length, device=device)
        targets = targets_of(test, rows)
        return lambda removed: rank_vectors(vectors, encoder, targets, device=device, histories=removed)

    return Contestant("encoder", "model", block, facts)


def _baselines(prepared: PreparedLog, test: Sequences) -> tuple[list[Contestant], list[str]]:
    """The fitted baselines, and the names of those that this log is too large for."""
    train, items = prepared.sequences("train"), prepared.vocabulary.num_items
    found = []

    def add(name: str, fit: Callable[[], Baseline]) -> None:
        started = time.perf_counter()
        baseline = fit()
        seconds = time.perf_counter() - started
        found.append(Contestant(name, "baseline", _by_scores(baseline, test, items), {"seconds": seconds}))

    small = items <= COUNTED_ITEMS and int(train.lengths.sum()) <= COUNTED_EVENTS
    if small:
        learned = whole_histories(train, np.arange(len(train)))
        add("markov", lambda: MarkovRanker.fit(learned, num_items=items))
        add("item_knn", lambda: ItemKNN.fit(learned, num_items=items))
    add("popularity", lambda: _popularity(train, num_items=items))
    return found, [] if small else ["markov", "item_knn"]


def _popularity(train: Sequences, *, num_items: int) -> PopularityRanker:
    counts = np.zeros(FIRST_ITEM + num_items, dtype=np.int64)
    for rows in _blocks(train, np.arange(len(train))):
        counts += np.bincount(whole_histories(train, rows)[0], minlength=len(counts))
    return PopularityRanker(counts)


def _by_scores(baseline: Baseline, test: Sequences, num_items: int) -> Callable[[Ints], Rank]:
    def block(rows: Ints) -> Rank:
        def score(users: slice) -> torch.Tensor:
            found = baseline.scores(whole_histories(test, rows[users]))
            return torch.from_numpy(np.array(found))  # popularity hands out a read-only view

        targets = targets_of(test, rows)
        return lambda removed: rank_scores(score, targets, num_rows=FIRST_ITEM + num_items, histories=removed)

    return block


class _Oracle:
    """The exact probabilities of the world's next item (B, V); what the world does not know stands below them all."""

    def __init__(self, world: World, vocabulary: Vocabulary) -> None:
        rows = vocabulary.rows(world.items)
        self._world = world
        self._numbers = np.flatnonzero(rows >= 0)  # items of the world that have a row, and their rows
        self._rows = rows[self._numbers]
        self._number_of_row = np.full(len(vocabulary), -1, dtype=np.int32)
        self._number_of_row[self._rows] = self._numbers

    def scores(self, histories: Histories) -> NDArray[np.float64]:
        flat, lengths = histories
        known = WorldHistories.of_lengths(self._number_of_row[flat], lengths.astype(np.int64))
        scores = np.full((len(lengths), len(self._number_of_row)), -1.0)
        scores[:, self._rows] = self._world.oracle_next_item(known)[:, self._numbers]
        return scores
