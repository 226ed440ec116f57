"""Baselines of impressions: base rates, and the logistic regression on fields against a dense one."""

import numpy as np
import pytest
from scipy.optimize import minimize

from peterrec.baselines import field_regression
from peterrec.baselines.base_rate import BaseRate
from peterrec.baselines.field_regression import GRID, FieldRegression
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError

N = 900
FIELDS = ("city", "price", "tags")
TRAIN, HELD, TEST = np.arange(500), np.arange(500, 700), np.arange(700, N)


def drawn(seed: int = 0, **changes) -> dict:
    """Columns whose clicks follow city, price, tags and domain; some are missing, some are seen in the test alone."""
    rng = np.random.default_rng(seed)
    city, domain = rng.integers(0, 6, N), rng.integers(-1, 3, N)
    price = rng.normal(20, 4, N)
    gone = rng.random(N) < 0.15
    tags = [sorted(set(rng.integers(0, 5, size).tolist())) for size in rng.integers(0, 4, N)]
    logits = np.linspace(-1, 1, 6)[city] + np.where(gone, -0.8, (price - 20) / 4) + domain - 1.2
    logits += np.array([0.9 * len({1, 3} & set(row)) for row in tags])
    click = (rng.random(N) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    city[TEST[:20]] = 9
    columns = {
        "labels": {"click": click},
        "categorical": {"city": [None if place == 5 else f"c{place}" for place in city]},
        "numeric": {"price": np.where(gone, np.nan, price)},
        "multi": {"tags": [[f"t{tag}" for tag in row] for row in tags]},
        "domain": [None if place < 0 else f"d{place}" for place in domain],
    }
    return {**columns, **changes}


@pytest.fixture(scope="module")
def impressions():
    return Impressions.of_arrays(**drawn())


@pytest.fixture(scope="module")
def coding(impressions):
    return FieldCoding.fit(impressions, TRAIN, fields=FIELDS, minimum=1)


def fitted(impressions, coding, *, rows=TRAIN, label="click", **options):
    return FieldRegression.fit(impressions, coding=coding, rows=rows, validation=HELD, label=label, **options)


def dense(columns: dict) -> np.ndarray:
    """The design, a row after the other: city, price, missing price, tags, domain."""
    price = np.array(columns["numeric"]["price"])
    mean, sd = np.nanmean(price[TRAIN]), np.nanstd(price[TRAIN])
    known = sorted({columns["categorical"]["city"][row] for row in TRAIN} - {None})
    rows = []
    for row in range(N):
        city, tags = columns["categorical"]["city"][row], columns["multi"]["tags"][row]
        cell = [float(city == name) for name in known] + [float(city is None), float(city not in (*known, None))]
        cell += [0.0, 1.0] if np.isnan(price[row]) else [(price[row] - mean) / sd, 0.0]
        cell += [float(f"t{tag}" in tags) for tag in range(5)]
        rows.append(cell + [float(columns["domain"][row] == f"d{place}") for place in range(3)])
    return np.array(rows)


def reference(design: np.ndarray, labels: np.ndarray, *, C: float, weights: np.ndarray) -> np.ndarray:
    """Coefficients and intercept of the penalised logistic regression, by a general optimiser."""
    inputs = np.column_stack([design, np.ones(len(design))])

    def loss(found: np.ndarray) -> tuple[float, np.ndarray]:
        logits = inputs @ found
        penalised = np.append(found[:-1], 0)
        value = (weights * (np.logaddexp(0, logits) - labels * logits)).sum() + (penalised**2).sum() / (2 * C)
        return value, inputs.T @ (weights * (1 / (1 + np.exp(-logits)) - labels)) + penalised / C

    found = minimize(
        loss, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-7}
    )
    return found.x


def predicted(design: np.ndarray, found: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(design @ found[:-1] + found[-1])))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_regression_is_that_of_a_dense_one_hot_design(coding, weighted):
    weights = np.random.default_rng(1).integers(0, 4, N).astype(np.float64) if weighted else np.ones(N)
    columns = drawn(weight=weights if weighted else None)
    model = fitted(Impressions.of_arrays(**columns), coding)
    assert model.C is not None
    design, labels = dense(columns), columns["labels"]["click"]
    scale = weights[TRAIN][weights[TRAIN] > 0].mean()
    found = reference(design[TRAIN], labels[TRAIN], C=model.C, weights=weights[TRAIN] / scale)
    rows = np.random.default_rng(2).permutation(TEST)  # whose order the predictions have
    np.testing.assert_allclose(
        model.predict(Impressions.of_arrays(**columns), rows), predicted(design[rows], found), atol=2e-3
    )
    losses = []
    for C in GRID:
        found = reference(design[TRAIN], labels[TRAIN], C=C, weights=weights[TRAIN] / scale)
        p = predicted(design[HELD], found)
        held = -np.where(labels[HELD] == 1, np.log(p), np.log(1 - p))
        losses.append(np.average(held, weights=weights[HELD]))
    assert losses[GRID.index(model.C)] == pytest.approx(min(losses), abs=1e-5)
    assert min(losses) < losses[0] - 1e-3  # so that something was chosen


def test_weights_can_be_left_aside(coding):
    weights = np.random.default_rng(1).integers(1, 9, N)
    heavy = Impressions.of_arrays(**drawn(weight=weights))
    plain = fitted(Impressions.of_arrays(**drawn()), coding).predict(heavy, TEST)
    np.testing.assert_array_equal(fitted(heavy, coding, row_weights=False).predict(heavy, TEST), plain)
    assert np.abs(fitted(heavy, coding).predict(heavy, TEST) - plain).max() > 0.01


def test_rows_without_the_label_and_other_rows_teach_nothing(impressions, coding):
    columns = drawn()
    labels, odd = columns["labels"]["click"].copy(), np.arange(0, 700, 3)
    labels[odd] = np.nan
    missing = Impressions.of_arrays(**drawn(labels={"click": labels}))
    chosen = [np.setdiff1d(rows, odd) for rows in (TRAIN, HELD)]
    alone = FieldRegression.fit(impressions, coding=coding, rows=chosen[0], validation=chosen[1], label="click")
    np.testing.assert_array_equal(fitted(missing, coding).predict(impressions, TEST), alone.predict(impressions, TEST))
    labels[TEST] = 1 - columns["labels"]["click"][TEST]
    again = fitted(Impressions.of_arrays(**drawn(labels={"click": labels})), coding)
    np.testing.assert_array_equal(again.predict(impressions, TEST), alone.predict(impressions, TEST))


def test_several_unseen_values_count_once(impressions):
    coding = FieldCoding.fit(impressions, TRAIN, fields=["tags"], minimum=130)  # of which some are known, and some not
    assert 0 < len(coding.multi[0].values) < 4
    model = fitted(impressions, coding)
    tags = [[], ["x"], ["x", "y"]]
    other = Impressions.of_arrays(labels={"click": [0] * 3}, multi={"tags": tags}, domain=[None] * 3)
    none, one, two = model.predict(other, np.arange(3))
    assert one == two != none


def test_many_rows_are_predicted_in_parts(impressions, coding, monkeypatch):
    model = fitted(impressions, coding)
    rows = np.random.default_rng(3).integers(0, N, 50)
    whole = model.predict(impressions, rows)
    monkeypatch.setattr(field_regression, "_ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(model.predict(impressions, rows), whole, rtol=1e-12)
    assert model.predict(impressions, rows[:0]).shape == (0,)


def test_labels_that_are_all_alike_are_certain(coding):
    impressions = Impressions.of_arrays(**drawn(labels={"click": np.ones(N)}))
    model = fitted(impressions, coding)
    assert model.C is None
    assert model.predict(impressions, TEST).tolist() == [1.0] * len(TEST)


def test_without_validation_labels_C_is_one(impressions, coding):
    model = FieldRegression.fit(impressions, coding=coding, rows=TRAIN, validation=HELD[:0], label="click")
    assert model.C == 1


def test_labels_that_cannot_be_learned_are_refused(coding):
    none = Impressions.of_arrays(**drawn(labels={"click": np.full(N, np.nan)}))
    with pytest.raises(DataError, match="none of the 500 training rows has the label 'click'"):
        fitted(none, coding)
    with pytest.raises(DataError, match="none of the 500 training rows has the label 'click'"):
        BaseRate.fit(none, rows=TRAIN, label="click")
    with pytest.raises(DataError, match="other values than 0 and 1"):
        fitted(Impressions.of_arrays(**drawn(labels={"click": np.arange(N) % 3})), coding)


@pytest.mark.parametrize("weighted", [False, True])
def test_base_rates_are_shares_of_the_training_rows(weighted):
    labels = drawn()["labels"]["click"].copy()
    labels[::5] = np.nan
    weights = np.random.default_rng(4).random(N).astype(np.float32) if weighted else None
    domain = [None if place % 7 == 0 else "late" if place >= 500 else f"d{place % 3}" for place in range(N)]
    impressions = Impressions.of_arrays(**drawn(labels={"click": labels}, weight=weights, domain=domain))
    of = {}
    for name in ("all", "d0", "d1", "d2"):
        rows = [row for row in TRAIN if not np.isnan(labels[row]) and name in ("all", domain[row])]
        own = [1.0 if weights is None else float(weights[row]) for row in rows]
        of[name] = sum(w * labels[row] for w, row in zip(own, rows, strict=True)) / sum(own)
    rows = np.random.default_rng(3).integers(0, N, 99)
    single = BaseRate.fit(impressions, rows=TRAIN, label="click")
    assert single.predict(impressions, rows) == pytest.approx([of["all"]] * 99)
    each = BaseRate.fit(impressions, rows=TRAIN, label="click", per_domain=True).predict(impressions, rows)
    assert each == pytest.approx([of.get(domain[row] or "all", of["all"]) for row in rows])
    assert len(set(each.tolist())) == 4


def test_base_rates_without_domains():
    impressions = Impressions.of_arrays(**drawn(domain=None))
    rate = BaseRate.fit(impressions, rows=TRAIN, label="click", per_domain=True)
    assert rate.predict(impressions, TEST) == pytest.approx(impressions.labels["click"][TRAIN].mean())
