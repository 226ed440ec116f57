"""Results on impressions: baselines against direct computation, what is compared with what, the protocol's words."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from impression_world import draw, plan_of
from sklearn.linear_model import LogisticRegression

from peterrec.catalogue import impression_task
from peterrec.data.attribute import Split
from peterrec.data.impressions.schema import SplitRule
from peterrec.errors import DataError
from peterrec.evaluation import impression_baselines
from peterrec.evaluation.impression_arena import ImpressionArena
from peterrec.evaluation.impression_baselines import baselines
from peterrec.evaluation.impression_entrant import by_measure, entrant, measured
from peterrec.evaluation.impression_measures import measures_of
from peterrec.evaluation.impression_plan import ImpressionPlan
from peterrec.evaluation.impression_results import _results, prediction_table, protocol
from peterrec.objective_recipe import Measure

PARTS = Split(np.arange(400), np.arange(400, 500), np.arange(500, 600))


def arena_of(impressions, *, seeds=(0,), splits=None):
    plan = ImpressionPlan(
        task=impression_task("mmoe"), overrides=(), encoder=None, seeds=seeds, source="mmoe", data=Path("data")
    )
    return ImpressionArena(plan, impressions, splits or dict.fromkeys(seeds, PARTS))


@pytest.fixture(scope="module")
def impressions():
    found = draw(rows=600, weights=True)
    found.labels["click"][::17] = np.nan
    return found


def weighted(impressions, rows):
    return np.asarray(impressions.weight[rows], dtype=np.float64)


def test_base_rates_are_weighted_means_of_the_space(impressions):
    plan = plan_of("mmoe", impressions)
    found = baselines(arena_of(impressions), plan)
    assert list(found) == ["logistic_regression", "base_rate_of_domain", "base_rate"]
    click, conversion = (impressions.labels[name] for name in ("click", "conversion"))
    known = PARTS.train[np.isfinite(click[PARTS.train])]
    clicked = PARTS.train[click[PARTS.train] == 1]
    rates = found["base_rate"].predicted[0]
    w = weighted(impressions, known)
    np.testing.assert_allclose(rates["ctr"], np.average(click[known], weights=w))
    np.testing.assert_allclose(rates["cvr"], np.average(conversion[clicked], weights=weighted(impressions, clicked)))
    np.testing.assert_allclose(
        rates["ctcvr"], np.average(conversion[PARTS.train], weights=weighted(impressions, PARTS.train))
    )
    for number in range(3):
        own, test = known[impressions.domain[known] == number], impressions.domain[PARTS.test] == number
        expected = np.average(click[own], weights=weighted(impressions, own))
        np.testing.assert_allclose(found["base_rate_of_domain"].predicted[0]["ctr"][test], expected)


def test_the_regression_is_one_on_indicators_of_the_fields():
    impressions = draw(rows=600)
    plan = replace(
        plan_of("mmoe", impressions), fields=("shelf", "price"), measures=(Measure(of="ctr", label="click"),)
    )
    found = baselines(arena_of(impressions), plan)["logistic_regression"].predicted[0]["ctr"]
    click = impressions.labels["click"]
    shelf, price = impressions.categorical[:, 0], impressions.numeric[:, 0]
    train = PARTS.train
    scaled = (price - price[train].mean()) / price[train].std()
    columns = [shelf == code for code in range(1, 6)] + [impressions.domain == n for n in range(3)] + [scaled]
    features = np.stack(columns, axis=1).astype(float)

    def fit(C):
        return LogisticRegression(C=C, max_iter=5000, tol=1e-8).fit(features[train], click[train])

    def loss(model):
        p = model.predict_proba(features[PARTS.validation])[:, 1]
        y = click[PARTS.validation]
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean()

    best = min((fit(C) for C in (0.01, 0.1, 1.0, 10.0, 100.0)), key=loss)
    np.testing.assert_allclose(found, best.predict_proba(features[PARTS.test])[:, 1], atol=2e-3)


def values_world():
    impressions = draw(rows=600)
    rng = np.random.default_rng(4)
    impressions.labels["dwell"] = np.where(
        impressions.labels["click"] == 1, rng.exponential(30, 600) + impressions.domain, 0
    ).astype(np.float32)
    impressions.labels["completion"] = impressions.labels["conversion"]
    plan = plan_of("engagement", impressions)
    space = "click == 1"
    measures = (Measure(of="click", label="click"), Measure(of="dwell", label="dwell", space=space))
    names = {one.name for one in plan.heads}
    assert {"click", "dwell"} <= names or {"ctr", "dwell"} <= names
    first = "click" if "click" in names else "ctr"
    return impressions, replace(plan, measures=(measures[0].model_copy(update={"of": first}), measures[1])), first


def test_a_value_has_the_mean_of_its_space_and_no_regression():
    impressions, plan, first = values_world()
    arena = arena_of(impressions)
    found = baselines(arena, plan)
    clicked = PARTS.train[impressions.labels["click"][PARTS.train] == 1]
    dwell = impressions.labels["dwell"]
    np.testing.assert_allclose(found["base_rate"].predicted[0]["dwell"], dwell[clicked].mean(), rtol=1e-6)
    for number in range(3):
        own, test = clicked[impressions.domain[clicked] == number], impressions.domain[PARTS.test] == number
        np.testing.assert_allclose(
            found["base_rate_of_domain"].predicted[0]["dwell"][test], dwell[own].mean(), rtol=1e-6
        )
    assert set(found["logistic_regression"].predicted[0]) == {first}
    rng = np.random.default_rng(1)
    outputs = {first: rng.random(100), "dwell": np.full(100, 20.0)}
    model = entrant("net", "model", arena, plan, {0: by_measure(plan, outputs)})
    told = _results(arena, [model], plan)
    rows = {one["name"]: one["metrics"] for one in told["results"]}
    tested = PARTS.test[impressions.labels["click"][PARTS.test] == 1]
    assert rows["net"]["dwell/rmse"]["value"] == pytest.approx(np.sqrt(((dwell[tested] - 20) ** 2).mean()), rel=1e-5)
    assert "dwell/rmse" not in rows["logistic_regression"]
    pairs = {(one["metric"], one["over"]) for one in told["gains"]}
    assert ("dwell/rmse", "base_rate") in pairs
    assert ("dwell/rmse", "logistic_regression") not in pairs


def test_no_row_of_a_space_is_refused():
    impressions, plan, _ = values_world()
    impressions.labels["click"][PARTS.train[::2]] = 0
    impressions.labels["click"][PARTS.train] = np.where(np.arange(400) % 7 == 0, 1, 0)
    impressions.labels["dwell"][PARTS.train] = np.nan
    with pytest.raises(DataError, match="no training row has the label 'dwell'"):
        baselines(arena_of(impressions), plan)


def test_seeds_that_share_a_split_share_what_was_learned(impressions, monkeypatch):
    fits = []
    fit = impression_baselines.FieldRegression.fit

    def counted(*arguments, **named):
        fits.append(1)
        return fit(*arguments, **named)

    monkeypatch.setattr(impression_baselines.FieldRegression, "fit", counted)
    plan = plan_of("mmoe", impressions)
    other = Split(np.arange(100, 500), np.arange(100), np.arange(500, 600))  # the same test rows, learned elsewhere
    found = baselines(arena_of(impressions, seeds=(0, 1, 2), splits={0: PARTS, 1: PARTS, 2: other}), plan)
    assert len(fits) == 2 * 3
    by_seed = found["logistic_regression"].predicted
    assert by_seed[1] is by_seed[0]
    assert not np.allclose(by_seed[2]["ctr"], by_seed[0]["ctr"])


def test_an_output_that_is_measured_twice_has_two_names_and_two_baselines():
    impressions = draw(rows=600)
    plan = replace(
        plan_of("mmoe", impressions),
        measures=(
            Measure(of="cvr", label="conversion", space="click == 1"),
            Measure(of="cvr", label="click"),
            Measure(of="cvr", label="conversion"),
            Measure(of="cvr", label="conversion", space="click == 0"),
        ),
    )
    names = ["cvr", "cvr:click", "cvr:conversion", "cvr:conversion where click == 0"]
    assert list(measures_of(plan)) == names
    rates = baselines(arena_of(impressions), plan)["base_rate"].predicted[0]
    click, conversion = (impressions.labels[name][PARTS.train] for name in ("click", "conversion"))
    expected = [conversion[click == 1].mean(), click.mean(), conversion.mean(), 0.0]
    np.testing.assert_allclose([rates[name][0] for name in names], expected, rtol=1e-6)
    rows = measured(impressions, PARTS.test, plan, by_measure(plan, {"cvr": np.linspace(0.1, 0.9, 100)}))
    assert {name.split("/")[0] for name in rows.names} == {"mean", *names}


def model_of(arena, name, plan, *, seed, role="model"):
    rng = np.random.default_rng(seed)
    outputs = {one.name: rng.random(100) for one in plan.heads} | {name: rng.random(100) for name in plan.derived}
    return entrant(name, role, arena, plan, {0: by_measure(plan, outputs)})


def test_only_figures_of_the_same_question_are_compared():
    impressions = draw(rows=600)
    arena, plan = arena_of(impressions), plan_of("mmoe", impressions)
    everywhere = replace(
        plan,
        measures=tuple(one.model_copy(update={"space": None}) if one.of == "cvr" else one for one in plan.measures),
    )
    first, same = model_of(arena, "first", plan, seed=1), model_of(arena, "same", plan, seed=2)
    other = model_of(arena, "other", everywhere, seed=3)
    told = _results(arena, [first, same], plan)
    assert told["metric"] == "mean/auc"
    assert ("mean/auc", "first", "same") in {(one["metric"], one["of"], one["over"]) for one in told["gains"]}
    told = _results(arena, [first, same, other], plan)
    assert told["metric"] == "ctr/auc"
    pairs = {(one["metric"], one["of"], one["over"]) for one in told["gains"]}
    assert {("ctr/auc", "first", "other"), ("cvr/auc", "first", "same")} <= pairs
    assert not {pair for pair in pairs if pair[0].startswith("cvr") and "other" in pair}


def test_a_gain_is_the_difference_of_the_figures():
    impressions = draw(rows=600)
    arena, plan = arena_of(impressions), plan_of("mmoe", impressions)
    told = _results(arena, [model_of(arena, "a", plan, seed=1), model_of(arena, "b", plan, seed=2)], plan)
    value = {one["name"]: {name: f["value"] for name, f in one["metrics"].items()} for one in told["results"]}
    assert len(told["gains"]) > 10
    for gain in told["gains"]:
        name = gain["metric"]
        assert gain["value"] == pytest.approx(value[gain["of"]][name] - value[gain["over"]][name], abs=1e-9)
        assert gain["low"] <= gain["value"] <= gain["high"]
    assert {one["over"] for one in told["gains"] if one["of"] == "b"} == set(value) - {"a", "b"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("each_user", "each user's rows in time order, 70/10/20 (a split within users: those tested were trained on)"),
        ("rows", "rows drawn at random, 70/10/20"),
        ("by_user", "users drawn at random, 70/10/20"),
        ("temporal", "two cuts in time for all, 70/10/20"),
    ],
)
def test_the_protocol_says_what_was_done(name, words, impressions):
    schema = impressions.schema.model_copy(update={"split": SplitRule(name=name)})
    text = protocol(arena_of(replace(impressions, schema=schema), seeds=(0, 1)), plan_of("mmoe", impressions))
    assert text.startswith(f"600 impressions, split {name}: {words}; 2 seed(s): 400 training, 100 validation and 100")
    assert "cvr against conversion where click == 1" in text
    assert "ctcvr against conversion on all rows" in text


def test_the_table_of_predictions_tells_each_row(impressions):
    table = prediction_table(
        arena_of(impressions, seeds=(0, 5)), {0: {"ctr": np.linspace(0, 1, 100)}, 5: {"ctr": np.ones(100)}}
    )
    assert table.column_names == ["row", "user", "item", "domain", "seed", "click", "conversion", "p_ctr"]
    rows = table.to_pylist()
    assert [row["row"] for row in rows] == [*range(500, 600), *range(500, 600)]
    for row in rows[:100:9]:
        n = row["row"]
        assert row["user"] == impressions.user_ids.array[int(impressions.user[n])].as_py()
        assert row["domain"] == impressions.schema.domains[impressions.domain[n]]
        label = impressions.labels["click"][n]
        assert row["click"] == (None if np.isnan(label) else label)
    assert {row["seed"] for row in rows} == {0, 5}
