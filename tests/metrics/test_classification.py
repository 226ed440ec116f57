"""Measures against scikit-learn, brute force over pairs, and rows repeated as often as they weigh."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from peterrec.errors import DataError, DivergedError
from peterrec.metrics.classification import METRICS, Classified, classification_metrics


def rows(seed: int, *, count: int = 120, classes: int = 3, coarse: bool = False):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    probabilities = random.dirichlet(np.ones(classes), count)
    probabilities[np.arange(count), labels] += 0.3
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    if coarse:  # ties in scores, in the argmax and in the confidence
        probabilities = np.round(probabilities * 4) + 1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return labels, probabilities, random


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn_agrees(classes, weighted):
    labels, probabilities, random = rows(classes, classes=classes)
    weights = random.random(len(labels)) + 0.1 if weighted else None
    found = classification_metrics(labels, probabilities, weights=weights)
    predicted = probabilities.argmax(axis=1)
    given_ = {"sample_weight": weights}
    areas = [
        reference.roc_auc_score(labels == c, probabilities[:, c], **given_)
        for c in ([1] if classes == 2 else range(classes))
    ]
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted, **given_))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted, **given_))
    assert found["macro_f1"] == pytest.approx(
        reference.f1_score(labels, predicted, average="macro", zero_division=0, **given_)
    )
    assert found["roc_auc"] == pytest.approx(np.mean(areas))
    assert found["log_loss"] == pytest.approx(
        reference.log_loss(labels, probabilities, labels=range(classes), **given_)
    )
    confusion = Classified(labels, probabilities).confusion_matrix(weights)
    assert confusion == pytest.approx(reference.confusion_matrix(labels, predicted, **given_))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 12))
def test_auc_is_the_share_of_pairs_in_order_with_ties_a_half(data, count):
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    scores = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))) / 4
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    above = below = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weights[i] * weights[j]
            above += pair * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
            below += pair
    expected = above / below if below else np.nan
    found = Classified(labels, np.stack([1 - scores, scores], axis=1)).roc_auc(weights)
    assert float(found) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("coarse", [False, True])
def test_a_weight_is_a_number_of_repeats(classes, coarse):
    labels, probabilities, random = rows(5, classes=classes, coarse=coarse, count=60)
    weights = random.integers(0, 4, (6, len(labels)))
    weights[0, labels == 0] = 0  # a class that is not drawn
    replicates = Classified(labels, probabilities).measure(weights)
    for row, weight in enumerate(weights):
        repeated = np.repeat(np.arange(len(labels)), weight)
        repeats = Classified(labels[repeated], probabilities[repeated])
        for name, value in repeats.measure().items():
            if name != "calibration_error" or coarse:  # distinct confidences: repeats share a bin here too
                assert replicates[name][row] == pytest.approx(float(value), nan_ok=True), name
        assert repeats.confusion_matrix() == pytest.approx(Classified(labels, probabilities).confusion_matrix(weight))
    assert set(replicates) == set(METRICS)


def test_a_constant_prediction_scores_what_chance_scores():
    labels = np.array([0, 0, 0, 1, 2, 2])
    found = classification_metrics(labels, np.full((6, 3), 1 / 3))
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["balanced_accuracy"] == pytest.approx(1 / 3)
    assert found["roc_auc"] == pytest.approx(0.5)
    assert found["log_loss"] == pytest.approx(np.log(3))
    assert found["calibration_error"] == pytest.approx(0.0)


def test_ties_are_shared_between_classes_whatever_their_order():
    probabilities = np.array([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.6, 0.2, 0.2]])
    labels = np.array([0, 0, 0])
    assert Classified(labels, probabilities).accuracy() == pytest.approx((0.5 + 0 + 1) / 3)
    assert Classified(labels, probabilities).confusion_matrix()[0] == pytest.approx([1.5, 1.0, 0.5])


def test_calibration_error_bins_have_equal_mass():
    random = np.random.default_rng(3)
    confidence = random.permutation(np.linspace(0.51, 0.99, 150))
    labels = random.integers(0, 2, 150)
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    order = np.argsort(confidence)
    bins = order.reshape(15, 10)
    gaps = np.abs((labels[bins] == 0).mean(axis=1) - confidence[bins].mean(axis=1))
    classified = Classified(labels, probabilities)
    assert classified.calibration_error() == pytest.approx(gaps.mean())
    curve = classified.reliability_curve()
    assert curve["count"] == [10] * 15
    assert curve["confidence"] == pytest.approx(confidence[bins].mean(axis=1))
    assert curve["accuracy"] == pytest.approx((labels[bins] == 0).mean(axis=1))
    shuffled = random.permutation(150)
    again = Classified(labels[shuffled], probabilities[shuffled])
    assert again.calibration_error() == pytest.approx(float(classified.calibration_error()))


def test_one_confidence_is_one_bin():
    curve = Classified([0, 1, 1, 0, 0], np.full((5, 2), [0.7, 0.3])).reliability_curve(bins=4)
    assert curve == {"confidence": [pytest.approx(0.7)], "accuracy": [pytest.approx(0.6)], "count": [5.0]}


def test_classes_without_labels_are_left_out():
    labels, probabilities, _ = rows(8, classes=4)
    kept = labels != 2
    found = classification_metrics(labels[kept], probabilities[kept])
    areas = [reference.roc_auc_score(labels[kept] == c, probabilities[kept][:, c]) for c in (0, 1, 3)]
    assert found["roc_auc"] == pytest.approx(np.mean(areas))
    predicted = probabilities[kept].argmax(axis=1)
    assert 2 in predicted  # in F1 a class that is predicted counts, without labels too
    assert found["macro_f1"] == pytest.approx(
        reference.f1_score(labels[kept], predicted, average="macro", zero_division=0)
    )
    recalls = [(predicted[labels[kept] == c] == c).mean() for c in (0, 1, 3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))


def test_one_class_leaves_the_area_undefined_and_a_certain_error_finite():
    found = classification_metrics([1, 1], [[1.0, 0.0], [0.0, 1.0]])
    assert np.isnan(found["roc_auc"])
    assert found["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_mistakes_are_named():
    with pytest.raises(DataError, match=r"label of row 1 is 3, .* classes 0 to 2"):
        Classified([0, 3], np.full((2, 3), 1 / 3))
    with pytest.raises(DataError, match="no rows"):
        Classified([], np.zeros((0, 2)))
    with pytest.raises(DivergedError, match="row 1"):
        Classified([0, 1], [[0.5, 0.5], [np.nan, 0.5]])
