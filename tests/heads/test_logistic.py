"""The logistic regression: its optimum, its folds, and label sets too small or too plain."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

from peterrec.errors import SettingsError
from peterrec.heads.logistic import GRID, Logistic, stratified_folds


def linear(seed: int, *, count: int = 300, classes: int = 3, width: int = 8, skill: float = 2.0):
    random = np.random.default_rng(seed)
    features = random.normal(size=(count, width))
    logits = skill * features @ np.random.default_rng(99).normal(size=(width, classes))
    return features, (logits + random.gumbel(size=(count, classes))).argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_it_is_at_the_optimum_whatever_the_scale_of_the_features(classes, scale):
    """Features this small leave gradients that a fixed tolerance would take for the optimum."""
    features, labels = linear(0, classes=classes)
    found = Logistic(C=0.5 / scale**2).fit(csr_array(features * scale), labels, num_classes=classes)
    exact = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(features, labels)
    assert found.predict(csr_array(features * scale)) == pytest.approx(exact.predict_proba(features), abs=5e-3)


@pytest.mark.parametrize(("skill", "least", "most"), [(0.0, 0.0, 0.2), (20.0, 3.0, np.inf)])
def test_cross_validation_penalises_noise_and_trusts_signal(skill, least, most):
    features, labels = linear(1, skill=skill)
    model = Logistic().fit(features, labels, num_classes=3)
    assert model.chosen_C in GRID
    assert least <= model.chosen_C <= most
    again = Logistic().fit(features, labels, num_classes=3)
    assert np.array_equal(model.predict(features), again.predict(features))


def test_the_chosen_penalty_is_the_best_of_the_grid_on_held_out_rows():
    features, labels = linear(2, count=120, skill=0.4)
    losses = {}
    for C in GRID:
        held_out = []
        for train, held in stratified_folds(labels, folds=5, rows=1000, seed=0):
            model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000).fit(features[train], labels[train])
            held_out.extend(-np.log(model.predict_proba(features[held])[np.arange(len(held)), labels[held]]))
        losses[C] = np.mean(held_out)
    assert Logistic().fit(features, labels, num_classes=3).chosen_C == min(losses, key=losses.__getitem__)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60).map(np.array),
    folds=st.integers(2, 5),
    rows=st.integers(5, 80),
)
def test_folds_are_stratified_and_apart(labels, folds, rows):
    found = stratified_folds(labels, folds=folds, rows=rows, seed=3)
    held_all = [row for _, held in found for row in held]
    assert len(held_all) == len(set(held_all)) <= min(rows, len(labels))
    for train, held in found:
        assert not set(train) & set(held)
        assert set(labels[held]) <= set(labels[train])
        assert len(set(labels[train])) > 1
    if rows >= len(labels) and len(set(labels)) > 1:
        for label in set(labels.tolist()):
            counts = [int((labels[held] == label).sum()) for _, held in found]
            size = int((labels == label).sum())
            if size >= folds and len(found) == folds:
                assert max(counts) - min(counts) <= 1
                assert sum(counts) == size


def test_eight_labels_a_class_and_a_class_of_one():
    features, labels = linear(3, count=500, skill=3.0)
    few = np.concatenate([np.flatnonzero(labels == 0)[:8], np.flatnonzero(labels == 1)[:8]])
    one = np.append(few, np.flatnonzero(labels == 2)[:1])
    for rows in (few, one):
        model = Logistic().fit(features[rows], labels[rows], num_classes=4)
        found = model.predict(features)
        assert found.shape == (500, 4)
        assert found.sum(axis=1) == pytest.approx(np.ones(500))
        assert np.all(found[:, 3] == 0)  # a class that nobody has
        assert np.all((found[:, 2] > 0) == (len(rows) == 17))
        known = labels < 2
        assert (found[known].argmax(axis=1) == labels[known]).mean() > 0.7


@pytest.mark.parametrize("labels", [[0, 1], [1, 1, 2], [0, 1, 2]])
def test_too_few_labels_to_search_still_fit(labels):
    model = Logistic().fit(np.eye(len(labels)), labels, num_classes=3)
    assert model.chosen_C in (1.0, *GRID)
    found = model.predict(np.eye(len(labels)))
    assert found.argmax(axis=1)[-1] in labels
    assert np.isfinite(found).all()


def test_one_class_is_certain():
    found = Logistic().fit(np.eye(3), [1, 1, 1], num_classes=3).predict(np.eye(2, 3))
    assert found.tolist() == [[0, 1, 0]] * 2


def test_separable_labels_and_equal_features_fit_without_warnings():
    features = np.repeat(np.eye(2), 50, axis=0)
    labels = np.repeat([0, 1], 50)
    assert Logistic(C=1e6).fit(features, labels, num_classes=2).predict(np.eye(2))[1, 1] > 0.99
    assert Logistic().fit(features, labels, num_classes=2).predict(np.eye(2))[1, 1] > 0.9
    flat = Logistic().fit(np.ones((40, 2)), np.repeat([0, 1], [10, 30]), num_classes=2)
    assert flat.predict(np.ones((1, 2)))[0] == pytest.approx([0.25, 0.75], abs=0.01)


@pytest.mark.parametrize("C", [0, -1.0, float("inf"), float("nan")])
def test_a_penalty_that_is_none_is_refused(C):
    with pytest.raises(SettingsError, match='above 0, or "cv"'):
        Logistic(C=C)
