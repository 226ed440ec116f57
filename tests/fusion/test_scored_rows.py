"""Measures of a score under a bootstrap's weights, against scikit-learn and loops on repeated rows."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import ndcg_score, roc_auc_score

from peterrec.fusion.goal import Goal
from peterrec.fusion.predictions import of_table
from peterrec.fusion.scored_rows import ScoredRows

GOALS = [Goal("click", "auc", 1.0), Goal("click", "gauc", 2.0), Goal("buy", "ndcg@3", 5.0)]


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, 300).astype(float)
    click[rng.random(300) < 0.1] = np.nan
    columns = {
        "user": rng.integers(0, 25, 300),
        "click": click,
        "buy": (rng.random(300) < 0.2).astype(float),
        "p_a": rng.random(300),
        "p_b": rng.random(300),
    }
    return of_table(pa.table(columns).select(list(columns)), origin="t")


def by_hand(rows, at, score):
    """Each goal's figure by loops."""
    user, click, buy = rows.clusters[at], rows.labels["click"][at], rows.labels["buy"][at]
    known = ~np.isnan(click)
    auc = roc_auc_score(click[known], score[known])
    aucs, sizes, ndcgs = [], [], []
    for u in np.unique(user):
        own = known & (user == u)
        if len(np.unique(click[own])) == 2:
            aucs.append(roc_auc_score(click[own], score[own]))
            sizes.append(own.sum())
        if buy[user == u].any():
            ndcgs.append(ndcg_score([buy[user == u]], [score[user == u]], k=3))
    return [auc, np.average(aucs, weights=sizes), np.mean(ndcgs)]


def test_the_figures_are_those_of_loops(rows):
    at = np.flatnonzero(rows.tested)
    score = rows.predicted["a"][at]
    measured = ScoredRows(rows, at, score, goals=GOALS, measures=[Goal("buy", "auc")])
    wanted = by_hand(rows, at, score)
    assert [measured.whole[str(goal)] for goal in GOALS] == pytest.approx(wanted)
    assert measured.whole["weighted_mean"] == pytest.approx(np.average(wanted, weights=[1, 2, 5]))
    assert measured.whole["buy/auc"] == pytest.approx(roc_auc_score(rows.labels["buy"][at], score))


def test_a_replicate_counts_users_as_often_as_they_are_drawn(rows):
    at = np.arange(len(rows))
    score = rows.predicted["b"]
    drawn = np.random.default_rng(1).integers(0, 3, rows.clusters.max() + 1)
    measured = ScoredRows(rows, at, score, goals=GOALS)
    found = measured.measure(drawn[rows.clusters][None].astype(float), measured.names)
    # users that are drawn twice become two users
    twice = np.flatnonzero(drawn[rows.clusters] == 2)
    copied = np.r_[np.flatnonzero(drawn[rows.clusters] > 0), twice]
    again = type("Rows", (), {})()
    again.clusters = np.r_[rows.clusters[copied[: -len(twice)]], rows.clusters[twice] + 1000]
    again.labels = {name: values[copied] for name, values in rows.labels.items()}
    wanted = by_hand(again, np.arange(len(copied)), score[copied])
    assert [found[str(goal)][0] for goal in GOALS] == pytest.approx(wanted)


def test_only_the_order_counts_and_minus_infinity_ties_with_itself(rows):
    at, score = np.arange(len(rows)), rows.predicted["a"].copy()
    score[:60] = 0.0
    with np.errstate(divide="ignore"):
        logs = ScoredRows(rows, at, np.log(score), goals=GOALS).whole
    assert logs == pytest.approx(ScoredRows(rows, at, score, goals=GOALS).whole)
