"""The comparison of a cold start: results, gains, protocol; what the report makes of them."""

import dataclasses

import numpy as np
import pytest
import torch

from peterrec.data.examples import split_pairs
from peterrec.errors import DataError
from peterrec.evaluation.cold_start import ColdStart, Entrant, cold_start_results, protocol
from peterrec.metrics.intervals import paired_gain
from peterrec.report.console import results_table
from peterrec.report.page import report_html

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def arena(told):
    splits = {seed: split_pairs(told.pairs, fractions=(0.6, 0.1, 0.3), seed=seed) for seed in SEEDS}
    return ColdStart(told.pairs, splits)


def entrant(arena, name, role, *, knows, **facts):
    """Scores at random, and better by `knows` for the target."""
    measured = {}
    for seed in arena.splits:
        test = arena.test(seed)
        scores = torch.from_numpy(np.random.default_rng((seed, len(name))).random((len(test), len(test.tail))))
        scores[torch.arange(len(test)), torch.from_numpy(test.targets)] += knows
        measured[seed] = test.measure(lambda rows, scores=scores: scores[rows])
    return Entrant(name, role, measured, facts)


@pytest.fixture(scope="module")
def entrants(arena):
    return [
        entrant(arena, "serial", "model", knows=0.9, trained_parameters=7),
        entrant(arena, "full", "model", knows=0.5),
        entrant(arena, "scratch", "control", knows=0.1),
        entrant(arena, "ridge", "baseline", knows=0.2, seconds=3.0),
    ]


@pytest.fixture(scope="module")
def found(arena, entrants):
    return cold_start_results(arena, entrants, skipped=["user_knn is skipped: too large."])


def test_results_stand_in_order_with_the_mean_over_seeds(arena, entrants, found):
    assert [(row["name"], row["role"]) for row in found["results"]] == [
        ("serial", "model"),
        ("full", "model"),
        ("scratch", "control"),
        ("ridge", "baseline"),
    ]
    assert found["metric"] == "ndcg@10"
    assert found["reference"] == "full"
    first = found["results"][0]
    assert first["trained_parameters"] == 7
    for name in ("hr@5", "ndcg@20", "mrr", "long_tail@10", "hr@10 (100 sampled negatives; not comparable)"):
        per_seed = [entrants[0].measured[seed].values[name].mean() for seed in SEEDS]
        figure = first["metrics"][name]
        assert figure["per_seed"] == pytest.approx(per_seed)
        assert figure["value"] == pytest.approx(np.mean(per_seed))
        assert figure["low"] <= figure["value"] <= figure["high"]
    covered = [entrants[0].measured[seed].coverage for seed in SEEDS]
    assert first["metrics"]["coverage@10"] == {"value": np.mean(covered), "per_seed": covered}


def test_gains_are_paired(entrants, found):
    rows = [[measured.rows() for measured in one.measured.values()] for one in entrants]
    told = {(gain["metric"], gain["of"], gain["over"]): gain for gain in found["gains"]}
    assert set(told) == {
        (metric, *pair)
        for metric in ("ndcg@10", "hr@10")
        for pair in (("serial", "full"), ("serial", "scratch"), ("serial", "ridge"), ("full", "ridge"))
    }
    expected = paired_gain(rows[0], rows[3], metric="ndcg@10")
    assert expected is not None
    gain = told["ndcg@10", "serial", "ridge"]
    assert (gain["value"], gain["low"], gain["high"]) == (expected.value, expected.low, expected.high)
    assert gain["low"] > 0


def test_the_report_shows_it(found, arena):
    metrics = {"format_version": 1, "stage": "compare", "task": "cold_start", "seeds": list(SEEDS), **found}
    page = report_html(metrics, title="cold start", settings={}, usage=[], summary=None)
    for words in (
        "coverage@10",
        "long tail@10",
        "HR@10 (100 sampled negatives; not comparable)",
        "user_knn is skipped",
    ):
        assert words in page
    assert results_table(metrics).row_count == 4


def test_events_follow_the_protocol(told, arena):
    users = arena.splits[0].test
    last = arena.events(users)
    assert set(last) <= set(told.pairs.starts[users + 1] - 1)
    assert told.pairs.before[last].min() >= 1
    strict = dataclasses.replace(arena, fewest_source=4, predict="all")
    events = strict.events(users)
    assert events.tolist() == [
        event
        for event in range(len(told.pairs.owner))
        if told.pairs.owner[event] in users and told.pairs.before[event] >= 4
    ]
    assert np.array_equal(strict.events(users, which="last"), [event for event in events if event in last])
    assert arena.validation(0).targets.tolist() == told.pairs.item[arena.events(arena.splits[0].validation)].tolist()
    assert arena.test(0).seen is None
    assert dataclasses.replace(arena, mixed=True).test(0).seen is not None
    with pytest.raises(DataError, match="fewest_source"):
        dataclasses.replace(arena, fewest_source=99).test(0)


def test_the_protocol_says_every_choice(told, arena, found):
    said = protocol(arena)
    events = arena.events(arena.splits[0].test)
    assert found["protocol"] == f"{said} user_knn is skipped: too large."
    for words in (
        "Tested is the last target event",
        f"({len(events)} events of {len(events)} users; {27 - len(events)} users have none)",
        "source events before it alone",
        "at the very time of a target event does not count",
        "No item is in both catalogues",
        "all 11 items",
        "not comparable with full rankings",
    ):
        assert words in said
    shared = dataclasses.replace(
        told.pairs, source_vocabulary=told.pairs.target_vocabulary, summary={"order": "one log"}
    )
    other = protocol(dataclasses.replace(arena, pairs=shared, mixed=True, fewest_source=2, predict="all"))
    for words in (
        "11 item ids are in both",
        "a warm start",
        "at least 2 source events",
        "order of the one log",
        "every",
    ):
        assert words in other
