"""Weights that are found: those that were planted, the same ones again, by rows that are not tested."""

import logging
from dataclasses import replace

import numpy as np
import optuna
import pyarrow as pa
import pytest

from peterrec.errors import SettingsError
from peterrec.fusion.formula import Fusion
from peterrec.fusion.goal import Goal
from peterrec.fusion.predictions import of_table
from peterrec.fusion.scored_rows import ScoredRows
from peterrec.fusion.tuning import Tried, front_of, tune


@pytest.fixture(scope="module")
def rows():
    """Clicks follow a · b³, buys hang on c alone."""
    rng = np.random.default_rng(0)
    a, b, c = rng.uniform(0.05, 1, (3, 6000))
    click = rng.random(6000) < 1 / (1 + np.exp(-2 * np.log(a * b**3) - 4))
    buy = rng.random(6000) < c**3
    return of_table(
        pa.table({"user": rng.integers(0, 300, 6000), "click": click, "buy": buy, "p_a": a, "p_b": b, "p_c": c}),
        origin="t",
    )


def test_planted_exponents_are_found(rows):
    found = tune(rows, names=["a", "b"], goals=[Goal("click", "auc")], form="product", trials=40, seed=0)
    weights = found.chosen.fusion.weights
    assert weights["a"] == 1.0
    assert 2.0 < weights["b"] < 4.5
    assert len(found.tried) == 42
    assert found.chosen.mean == max(one.mean for one in found.tried)


def test_the_same_seed_gives_the_same_weights_and_optuna_is_quiet(rows, caplog, capfd):
    before = optuna.logging.get_verbosity()
    words = {
        "names": ["a", "b", "c"],
        "goals": [Goal("click", "gauc"), Goal("buy", "auc")],
        "form": "sum",
        "trials": 15,
    }
    with caplog.at_level(logging.DEBUG):
        one, two = tune(rows, **words, seed=1), tune(rows, **words, seed=1)
    assert [each.fusion for each in one.tried] == [each.fusion for each in two.tried]
    assert [each.fusion for each in one.tried] != [each.fusion for each in tune(rows, **words, seed=2).tried]
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_labels_that_test_are_never_looked_at(rows):
    goals = [Goal("click", "auc"), Goal("buy", "auc")]
    turned = {name: np.where(rows.tested, 1 - values, values) for name, values in rows.labels.items()}
    words = {"names": ["a", "b", "c"], "goals": goals, "form": "product", "trials": 10, "seed": 0}
    assert tune(rows, **words) == tune(replace(rows, labels=turned), **words)


def test_the_front_of_two_goals_that_conflict(rows):
    goals = [Goal("click", "auc"), Goal("buy", "auc", 3.0)]
    found = tune(rows, names=["a", "c"], goals=goals, form="product", trials=40, seed=0)
    values = np.array([one.values for one in found.front])
    assert len(values) > 5
    assert (np.diff(values[:, 0]) > 0).all()
    assert (np.diff(values[:, 1]) < 0).all()
    assert found.chosen.values in [one.values for one in found.front]
    assert found.chosen.mean == pytest.approx((found.chosen.values[0] + 3 * found.chosen.values[1]) / 4)
    alone = [ScoredRows(rows, at, rows.predicted["c"][at], goals=goals).whole for at in rows.rows(rows.tuned)]
    assert found.tried[1].values == pytest.approx([alone[0]["click/auc"], alone[0]["buy/auc"]])


def test_the_front_against_all_pairs():
    rng = np.random.default_rng(3)
    tried = [Tried(Fusion("sum", {"a": 1.0}), tuple(each), 0.0) for each in rng.integers(0, 6, (60, 3)).astype(float)]

    def beaten(one):
        return any(
            all(b >= a for a, b in zip(one.values, other.values, strict=True)) and other.values != one.values
            for other in tried
        )

    wanted = sorted({one.values for one in tried if not beaten(one)})
    assert [one.values for one in front_of(tried)] == wanted


def test_one_prediction_has_nothing_to_tune(rows):
    with pytest.raises(SettingsError, match="one prediction to fuse"):
        tune(rows, names=["a"], goals=[Goal("click", "auc")], form="sum", trials=5, seed=0)
