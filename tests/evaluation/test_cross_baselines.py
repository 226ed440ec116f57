"""The baselines of a cold start: fitted on training users, chosen on validation users, never by test users."""

import dataclasses
import re

import numpy as np
import pytest

from peterrec.baselines.cross_item_knn import CrossItemKNN
from peterrec.baselines.ridge import Ridge
from peterrec.baselines.user_knn import UserKNN
from peterrec.data.examples import split_pairs
from peterrec.data.target_events import target_counts
from peterrec.evaluation import cross_baselines
from peterrec.evaluation.cold_start import ColdStart
from peterrec.evaluation.cross_baselines import NAMES, cold_start_baselines
from peterrec.evaluation.cross_examples import CrossExamples, histories_of


@pytest.fixture(scope="module")
def arena(told):
    return ColdStart(told.pairs, {4: split_pairs(told.pairs, fractions=(0.5, 0.2, 0.3), seed=4)})


@pytest.fixture(scope="module")
def found(arena):
    entrants, skipped = cold_start_baselines(arena)
    assert not skipped
    return {one.name: one for one in entrants}


def measured_alone(arena, part, baseline, *, recent=None):
    """A fitted baseline on a part's test, all histories at once."""
    import torch

    events = arena.events(getattr(arena.splits[4], part))
    test = {"validation": arena.validation, "test": arena.test}[part](4)
    scores = torch.from_numpy(
        np.array(baseline.scores(histories_of(arena.pairs, events, mixed=arena.mixed, recent=recent)))
    )
    return test.measure(lambda rows: scores[rows])


def test_all_are_there_with_their_settings(found):
    assert tuple(found) == NAMES
    assert {one.role for one in found.values()} == {"baseline"}
    for one in found.values():
        assert one.facts["seconds"] >= 0
        assert one.facts["chosen"][0]["seed"] == 4


@pytest.mark.parametrize("name", ["item_knn", "item_knn_recent", "user_knn", "ridge", "ridge_recent"])
def test_the_choice_is_the_best_on_validation_and_fitted_on_training_users(arena, found, name):
    pairs, split = arena.pairs, arena.splits[4]
    sizes = {"num_sources": len(pairs.source_vocabulary) - 3, "num_targets": len(pairs.target_vocabulary) - 3}
    users = CrossExamples.of_users(pairs, split.train, mixed=False)
    rows = (users.sources, users.targets)

    def of(which, recent=None):
        events = arena.events(split.train, which=which)
        examples = CrossExamples.of_events(pairs, events, mixed=False, recent=recent)
        return examples.sources, examples.targets

    if name == "item_knn":
        tried = [
            ({"neighbours": n, "recent": r}, CrossItemKNN.fit(*rows, neighbours=n, shrinkage=10.0, **sizes), r)
            for n in (50, 200)
            for r in (None, 20)
        ]
    elif name == "item_knn_recent":
        tried = [
            ({"recent": r, "shrinkage": s}, CrossItemKNN.fit(*of("all", r), neighbours=200, shrinkage=s, **sizes), r)
            for r in (1, 3, 5, 10, 20)
            for s in (0.0, 10.0)
        ]
    elif name == "user_knn":
        tried = [({"neighbours": n}, UserKNN.fit(*rows, neighbours=n, **sizes), None) for n in (50, 100, 200, 500)]
    elif name == "ridge":
        tried = [
            ({"rows": kind, "penalty": one.penalty}, one, None)
            for kind, given in (("users", rows), ("events", of("last")))
            for one in Ridge.path(*given, penalties=(1, 3, 10, 30, 100), **sizes)
        ]
    else:
        tried = [
            ({"recent": r, "penalty": one.penalty}, one, r)
            for r in (5, 10, 20)
            for one in Ridge.path(*of("all", r), penalties=(10, 30, 100, 300), **sizes)
        ]
    values = [measured_alone(arena, "validation", one, recent=r).values["ndcg@10"].mean() for _, one, r in tried]
    settings, best, recent = tried[int(np.argmax(values))]
    assert found[name].facts["chosen"] == [{"seed": 4, **settings, "validation": pytest.approx(max(values))}]
    expected = measured_alone(arena, "test", best, recent=recent)
    assert found[name].measured[4].places == pytest.approx(expected.places)


def test_popularity_counts_the_training_users(arena, found):
    counts = target_counts(arena.pairs, arena.splits[4].train)[3:]
    targets = arena.pairs.item[arena.events(arena.splits[4].test)] - 3
    expected = [1 + (counts > counts[t]).sum() + ((counts == counts[t]).sum() - 1) / 2 for t in targets]
    assert found["popularity"].measured[4].places.tolist() == expected


def test_what_the_future_and_the_test_users_hold_changes_nothing(told, arena, found):
    """Test targets and what follows them are replaced in what is read; only the ranks' own targets stay."""
    pairs, split = told.pairs, arena.splits[4]
    tested = arena.events(split.test)
    rolled = pairs.item.copy()
    of_test = np.isin(pairs.owner, split.test)
    rolled[of_test] = 3 + (rolled[of_test] - 3 + 1) % (len(pairs.target_vocabulary) - 3)
    altered, _ = cold_start_baselines(dataclasses.replace(arena, pairs=dataclasses.replace(pairs, item=rolled)))
    for one in altered:
        assert one.facts["chosen"] == found[one.name].facts["chosen"]
        assert one.measured[4].coverage == found[one.name].measured[4].coverage, "the same lists"
        assert np.array_equal(
            one.measured[4].values["long_tail@10"], found[one.name].measured[4].values["long_tail@10"]
        )
    assert any(not np.array_equal(one.measured[4].places, found[one.name].measured[4].places) for one in altered)
    assert len(tested)


def test_a_warm_start_reads_both_kinds(arena):
    entrants, skipped = cold_start_baselines(dataclasses.replace(arena, mixed=True))
    assert not skipped
    assert [one.name for one in entrants] == list(NAMES)


@pytest.mark.parametrize(
    ("limit", "value", "gone", "words"),
    [
        ("PRODUCTS", 10, NAMES[1:], "it would count [0-9,]+ pairs, 10 at most"),
        ("SIDE", 9, ("ridge", "ridge_recent"), "it would solve 14 equations, 9 at most"),
        ("CELLS", 100, ("ridge", "ridge_recent"), "its map would have 14 × 11 coefficients, 100 at most"),
    ],
)
def test_logs_that_are_too_large_skip_what_they_are_too_large_for(arena, monkeypatch, limit, value, gone, words):
    monkeypatch.setattr(cross_baselines, limit, value)
    entrants, skipped = cold_start_baselines(arena)
    assert [one.name for one in entrants] == [name for name in NAMES if name not in gone]
    assert [told.split()[0] for told in skipped] == list(gone)
    assert all(re.search(words, told) for told in skipped)
