"""How good predicted probabilities of clicks are: order (AUC), fit (log loss, NE) and level (PCOC).

A row of weight `w` counts as `w` equal rows would. Formulas: docs/metrics_ctr.md.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.metrics.ranked_pairs import RankedPairs
from peterrec.metrics.ratio import Floats, ratio

SMALLEST = np.finfo(np.float64).eps  # a probability of 0 costs 36 nats, not infinitely many


def auc(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> Floats:
    """The share of the pairs of a positive and a negative row in which the positive is predicted higher.

    A tie counts a half. Labels (N,) are 0 or 1; weights (N,), or (R, N) for R measures at once; NaN with one class.
    """
    return RankedPairs(labels, predictions).auc(_weights(labels, weights))


def log_loss(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> Floats:
    """The mean of −y ln p − (1 − y) ln(1 − p), in nats; labels and probabilities (N,), weights (N,) or (R, N)."""
    weights = _weights(labels, weights)
    return ratio(weights @ log_losses(labels, predictions), weights.sum(-1))


def ne(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> Floats:
    """Normalised entropy: the log loss over that of a constant prediction of these rows' own base rate.

    1 is a model that knows the base rate alone, less is better (He et al., ADKDD 2014, section 3). NaN where the
    rows have one class.
    """
    weights = _weights(labels, weights)
    total = weights.sum(-1)
    rate = ratio(weights @ np.asarray(labels, dtype=np.float64), total)
    return ratio(ratio(weights @ log_losses(labels, predictions), total), entropy(rate))


def pcoc(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> Floats:
    """Predicted clicks over clicks, Σ p / Σ y: above 1 the model claims too much; NaN without a positive row."""
    weights = _weights(labels, weights)
    told, true = (weights @ np.asarray(column, dtype=np.float64) for column in (predictions, labels))
    return ratio(told, true)


def rmse(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> Floats:
    """The root of the mean squared error of predicted values (N,)."""
    weights = _weights(labels, weights)
    return np.sqrt(ratio(weights @ squared_errors(labels, predictions), weights.sum(-1)))


def explained_variance(labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """The share of the variance of values (N,) that is explained, R²; NaN where they do not vary."""
    values, told = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    weights = _weights(values, weights)
    if not weights.any():
        return float("nan")
    variance = np.average((values - np.average(values, weights=weights)) ** 2, weights=weights)
    error = np.average((told - values) ** 2, weights=weights)
    return float(1 - error / variance) if variance > 0 else float("nan")


def information(labels: ArrayLike, *, weights: ArrayLike | None = None) -> float:
    """What labels (N,) of 0 and 1 tell: PN / (P + N), of weights; N / 4 where half are positive.

    The variance of the AUC of a guess is 1 / 12 over this, nearly (Mann and Whitney 1947). 0 with one class.
    """
    weights = _weights(labels, weights)
    positive = float(weights @ np.asarray(labels, dtype=np.float64))
    total = float(weights.sum())
    return positive * (total - positive) / total if total > 0 else 0.0


def log_losses(labels: ArrayLike, predictions: ArrayLike) -> Floats:
    """Each row's −ln of the probability of its label (N,); probabilities are taken as 2.2e-16 at least."""
    told = np.asarray(predictions, dtype=np.float64)
    return -np.log(np.maximum(np.where(np.asarray(labels) == 1, told, 1 - told), SMALLEST))


def squared_errors(labels: ArrayLike, predictions: ArrayLike) -> Floats:
    """Each row's squared error (N,)."""
    return (np.asarray(predictions, dtype=np.float64) - np.asarray(labels, dtype=np.float64)) ** 2


def entropy(rate: Floats) -> Floats:
    """The entropy of a base rate, in nats, 0 at 0 and 1."""
    inside = np.clip(rate, SMALLEST, 1 - SMALLEST)
    return np.where((rate > 0) & (rate < 1), -inside * np.log(inside) - (1 - inside) * np.log1p(-inside), 0.0)


def _weights(labels: ArrayLike, weights: ArrayLike | None) -> NDArray[np.float64]:
    return np.ones(len(np.asarray(labels))) if weights is None else np.asarray(weights, dtype=np.float64)
