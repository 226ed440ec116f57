"""The measuring of a cold start against loops over users, events and candidates."""

from collections import Counter

import numpy as np
import pytest
import torch

from peterrec.data.target_events import earlier_targets, target_counts
from peterrec.errors import DataError, DivergedError
from peterrec.evaluation.cold_start_test import COVERAGE, LONG_TAIL, SAMPLED, ColdStartTest
from peterrec.metrics.ranking import CPU_CELLS

TRAINED = np.arange(0, 50)


def target_rows(events):
    return [row for kind, row in events if kind == "target"]


def every_event(pairs, users):
    return np.concatenate([np.arange(pairs.starts[user], pairs.starts[user + 1]) for user in users])


def test_counts_and_earlier_targets_equal_loops(told):
    pairs = told.pairs
    counts = Counter(row for user in TRAINED for row in target_rows(told.users[user]))
    assert target_counts(pairs, TRAINED).tolist() == [counts[row] for row in range(len(pairs.target_vocabulary))]
    events = every_event(pairs, (3, 60, 61))[::-1]
    flat, lengths = earlier_targets(pairs, events)
    expected = [target_rows(told.users[pairs.owner[e]])[: e - pairs.starts[pairs.owner[e]]] for e in events]
    assert [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])] == expected


@pytest.mark.parametrize("mixed", [False, True])
def test_figures_equal_loops_and_users_weigh_the_same(told, mixed, monkeypatch):
    pairs = told.pairs
    users = np.arange(50, 90)
    events = every_event(pairs, users)
    width = len(pairs.target_vocabulary)
    scores = np.random.default_rng(5).integers(0, 6, (len(events), width)).astype(np.float32)
    asked = []

    def score(rows: slice) -> torch.Tensor:
        asked.append(rows)
        return torch.from_numpy(scores[rows])

    test = ColdStartTest.of(pairs, events, trained=TRAINED, mixed=mixed)
    measured = test.measure(score)
    counts = target_counts(pairs, TRAINED)
    order = sorted(range(3, width), key=lambda item: (-counts[item], item))
    held = np.cumsum(counts[order])
    tail = set(order[int(np.argmax(held >= 0.8 * held[-1])) + 1 :])
    hits, reciprocal, shares, listed, places = ({user: [] for user in users} for _ in range(5))
    for event, row in zip(events, scores, strict=True):
        owner, target = pairs.owner[event], pairs.item[event]
        earlier = set(target_rows(told.users[owner])[: event - pairs.starts[owner]]) if mixed else set()
        left = [item for item in range(3, width) if item == target or item not in earlier]
        above = sum(row[item] > row[target] for item in left)
        ranks = 1 + above + np.arange(sum(row[item] == row[target] for item in left))
        hits[owner].append(np.mean(ranks <= 5))
        reciprocal[owner].append(np.mean(1 / ranks))
        best = sorted(left, key=lambda item: (-row[item], item))[:10]
        shares[owner].append(np.mean([item in tail for item in best]))
        listed[owner] += best
        places[owner].append(ranks.mean())
    assert measured.users.tolist() == users.tolist()
    for name, expected in (("hr@5", hits), ("mrr", reciprocal), (LONG_TAIL, shares)):
        assert measured.values[name] == pytest.approx([np.mean(expected[user]) for user in users]), name
    assert measured.coverage == len({item for each in listed.values() for item in each}) / (width - 3)
    assert measured.places == pytest.approx([place for user in users for place in places[user]])
    assert measured.values[SAMPLED].min() >= measured.values["hr@10"].min()  # fewer candidates than are sampled
    assert len(asked) == 1, "each block is scored once"
    assert COVERAGE not in measured.values
    monkeypatch.setattr("peterrec.metrics.ranking.CPU_CELLS", 1)
    again = test.measure(score)
    assert len(asked) > 2
    assert CPU_CELLS > 1
    assert (again.coverage, again.places.tolist()) == (measured.coverage, measured.places.tolist())
    assert all(np.array_equal(again.values[name], values) for name, values in measured.values.items())


def test_a_target_that_was_had_before_stays_a_candidate(told):
    pairs = told.pairs
    again = [
        event
        for event in range(len(pairs.owner))
        if pairs.item[event] in pairs.item[pairs.starts[pairs.owner[event]] : event]
    ]
    assert again
    events = np.array(again[:3])
    test = ColdStartTest.of(pairs, events, trained=TRAINED, mixed=True)
    best = torch.zeros(3, len(pairs.target_vocabulary))
    best[torch.arange(3), torch.from_numpy(pairs.item[events].astype(np.int64))] = 1
    measured = test.measure(lambda rows: best[rows])
    assert measured.places.tolist() == [1, 1, 1]


def test_what_cannot_be_tested_is_refused(told):
    with pytest.raises(DataError, match="no target event is left"):
        ColdStartTest.of(told.pairs, np.arange(0), trained=TRAINED)
    test = ColdStartTest.of(told.pairs, np.arange(4), trained=TRAINED)
    with pytest.raises(DivergedError):
        test.measure(lambda rows: torch.full((rows.stop - rows.start, len(test.tail)), torch.nan))
