"""AUC, log loss, NE and PCOC against loops over pairs and rows, under weights."""

import math

import numpy as np
import pytest

from peterrec.metrics import click_rates
from peterrec.metrics.click_rates import auc, log_loss, ne, pcoc, rmse
from peterrec.metrics.ranked_pairs import RankedPairs


def impressions(seed: int, *, count: int = 60, share: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, coarse predictions (many ties), whole weights, some of them 0."""
    random = np.random.default_rng(seed)
    labels = (random.random(count) < share).astype(np.float32)
    return labels, random.integers(1, 9, count) / 10, random.integers(0, 4, count).astype(float)


def pairs_auc(labels: np.ndarray, predictions: np.ndarray, weights: np.ndarray) -> float:
    won = all_pairs = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] == 1 and labels[j] == 0:
                weight = weights[i] * weights[j]
                all_pairs += weight
                won += weight * (1.0 if predictions[i] > predictions[j] else 0.5 * (predictions[i] == predictions[j]))
    return won / all_pairs if all_pairs else math.nan


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1])
def test_auc_counts_pairs_with_ties_and_weights(seed: int, share: float) -> None:
    labels, predictions, weights = impressions(seed, share=share)
    assert auc(labels, predictions) == pytest.approx(pairs_auc(labels, predictions, np.ones(60)))
    assert auc(labels, predictions, weights=weights) == pytest.approx(pairs_auc(labels, predictions, weights))
    untied = predictions + np.random.default_rng(9).random(60) / 100
    assert auc(labels, untied, weights=weights) == pytest.approx(pairs_auc(labels, untied, weights))
    many = np.stack([weights, np.ones(60), weights[::-1]])
    together = auc(labels, predictions, weights=many)
    assert together == pytest.approx([pairs_auc(labels, predictions, row) for row in many])


def test_auc_knows_turned_constant_and_one_class_predictions() -> None:
    labels, predictions, weights = impressions(2)
    turned = auc(labels, -predictions, weights=weights)
    assert turned == pytest.approx(1 - auc(labels, predictions, weights=weights))
    assert auc(labels, np.full(60, 0.3), weights=weights) == pytest.approx(0.5)
    assert np.isnan(auc(np.ones(5), np.arange(5)))
    assert np.isnan(auc(np.zeros(5), np.arange(5)))
    assert np.isnan(auc([], []))
    assert auc([0, 1], [0.2, 0.9], weights=np.array([[1.0, 1.0], [0.0, 1.0]])).tolist()[0] == 1.0
    assert np.isnan(auc([0, 1], [0.2, 0.9], weights=np.array([[1.0, 1.0], [0.0, 1.0]]))[1])


def test_weights_of_clusters_are_weights_of_their_rows() -> None:
    labels, predictions, rows = impressions(3)
    clusters = np.random.default_rng(4).integers(7, size=60)
    counts = np.random.default_rng(5).integers(0, 3, size=(4, 7)).astype(float)
    pairs = RankedPairs(labels, predictions, clusters=clusters, row_weights=rows)
    wanted = [pairs_auc(labels, predictions, rows * count[clusters]) for count in counts]
    assert pairs.auc(counts) == pytest.approx(wanted)


def test_log_loss_and_rmse_are_means_over_repeated_rows() -> None:
    labels, predictions, weights = impressions(6)
    losses, errors = [], []
    for label, told, weight in zip(labels, predictions, weights, strict=True):
        losses += [-math.log(told if label else 1 - told)] * int(weight)
        errors += [(told - label) ** 2] * int(weight)
    assert log_loss(labels, predictions, weights=weights) == pytest.approx(np.mean(losses))
    assert rmse(labels, predictions, weights=weights) == pytest.approx(math.sqrt(np.mean(errors)))
    assert log_loss([1], [1]) == pytest.approx(0, abs=1e-12)
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(click_rates.SMALLEST))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_constant_prediction_of_the_base_rate_has_ne_and_pcoc_1(weighted: bool) -> None:
    labels, _, weights = impressions(7)
    weights = weights if weighted else np.ones(60)
    rate = float(np.average(labels, weights=weights))
    constant = np.full(60, rate)
    assert ne(labels, constant, weights=weights) == pytest.approx(1)
    assert pcoc(labels, constant, weights=weights) == pytest.approx(1)
    assert ne(labels, constant * 0.8, weights=weights) > 1
    assert pcoc(labels, constant * 0.8, weights=weights) == pytest.approx(0.8)
    sharper = np.where(labels == 1, 0.9, 0.1)
    told = -math.log(0.9) / -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    assert ne(labels, sharper, weights=weights) == pytest.approx(told)


def test_what_one_class_leaves_undefined() -> None:
    assert np.isnan(ne(np.zeros(4), np.full(4, 0.2)))
    assert np.isnan(ne(np.ones(4), np.full(4, 0.2)))
    assert np.isnan(pcoc(np.zeros(4), np.full(4, 0.2)))
    assert pcoc(np.ones(4), np.full(4, 0.2)) == pytest.approx(0.2)
    assert np.isnan(log_loss([], []))
