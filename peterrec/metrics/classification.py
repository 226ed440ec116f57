"""Measures of predicted class probabilities, under row weights, so that a bootstrap varies those alone.

A weight is how often a row counts: weights `w` give exactly what the rows repeated `w` times would give.
Where several classes share the highest probability, each of them is predicted with an equal share, so that a
constant predictor scores what chance scores and the order of the classes does not matter.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.errors import DataError, DivergedError

Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error"]
METRICS: tuple[Metric, ...] = get_args(Metric)

BINS = 15  # Guo et al., 2017, "On Calibration of Modern Neural Networks"
Floats = NDArray[np.float64]


class Classified:
    """N rows with a label (N,) and class probabilities (N, C); sorts once, then measures under any weights.

    Every measure takes `weights` of shape (N,), or (R, N) for R replicates at once, and returns () or (R,);
    without weights each row counts once. A measure that the rows leave undefined (ROC-AUC with one class) is
    NaN. Raises DataError on no rows or a label that is not in 0…C-1, DivergedError on probabilities that are
    NaN.
    """

    def __init__(self, labels: ArrayLike, probabilities: ArrayLike) -> None:
        self.labels: NDArray[np.int64] = np.asarray(labels).astype(np.int64)
        self.probabilities: Floats = np.asarray(probabilities, dtype=np.float64)
        assert self.labels.ndim == 1
        assert self.probabilities.shape[:1] == self.labels.shape
        assert self.probabilities.ndim == 2
        self.classes: int = self.probabilities.shape[1]
        if not len(self.labels):
            raise DataError("There are no rows to measure: the test part is empty. Use a larger test share.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.classes))
        if len(wrong):
            raise DataError(
                f"The label of row {wrong[0]} is {self.labels[wrong[0]]}, but there are probabilities for "
                f"classes 0 to {self.classes - 1} only. Train and test need the same classes."
            )
        broken = np.flatnonzero(np.isnan(self.probabilities).any(axis=1))
        if len(broken):
            raise DivergedError(
                f"The probabilities of row {broken[0]} are not numbers (NaN): the model has diverged. Train "
                "again with a lower learning rate."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def measure(self, weights: ArrayLike | None = None, *, metrics: Iterable[str] = METRICS) -> dict[str, Floats]:
        """The named measures, () or (R,) each."""
        return {name: getattr(self, name)(weights) for name in METRICS if name in metrics}

    def accuracy(self, weights: ArrayLike | None = None) -> Floats:
        """The share of rows whose label is predicted."""
        weights = self._weights(weights)
        return _ratio(weights @ self._hits, weights.sum(-1))

    def balanced_accuracy(self, weights: ArrayLike | None = None) -> Floats:
        """The mean over the classes among the labels of the share of their rows that is predicted."""
        right, support, _ = self._counts(self._weights(weights))
        return _mean_where(support > 0, _ratio(right, support))

    def macro_f1(self, weights: ArrayLike | None = None) -> Floats:
        """The mean of F1 over the classes among labels and predictions."""
        right, support, predicted = self._counts(self._weights(weights))
        return _mean_where(support + predicted > 0, _ratio(2 * right, support + predicted))

    def roc_auc(self, weights: ArrayLike | None = None) -> Floats:
        """The area under the ROC curve: of class 1 if C = 2, else the one-vs-rest mean over present classes.

        This is the Mann-Whitney statistic with midranks: a tie between a positive and a negative counts a
        half.
        """
        weights = self._weights(weights)
        total = weights.sum(-1)
        areas = []
        for order, positives, starts, ends in self._one_vs_rest:
            below = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1))
            np.cumsum(weights[..., order], axis=-1, out=below[..., 1:])
            own = weights[..., positives]
            count = own.sum(-1)
            ranks = (own * (below[..., starts] + below[..., ends])).sum(-1) / 2
            areas.append(_ratio(ranks - count**2 / 2, count * (total - count)))
        stacked = np.stack(areas, axis=-1)
        return _mean_where(~np.isnan(stacked), stacked)

    def log_loss(self, weights: ArrayLike | None = None) -> Floats:
        """The mean of −log p(label) in nats; p is taken as 2.2e-16 at least."""
        weights = self._weights(weights)
        return _ratio(weights @ self._surprise, weights.sum(-1))

    def calibration_error(self, weights: ArrayLike | None = None) -> Floats:
        """The expected calibration error: Σ |accuracy − confidence| · share over 15 bins of equal weight.

        Rows of one confidence always share a bin. It is never negative, so that its interval on few rows lies
        high.
        """
        weights = self._weights(weights)
        flat = np.atleast_2d(weights)
        gaps = _bin_sums(self._bins(flat), flat[:, self._by_confidence[0]] * self._gap, BINS)
        return _ratio(np.abs(gaps).sum(-1).reshape(weights.shape[:-1]), weights.sum(-1))

    def reliability_curve(self, weights: ArrayLike | None = None, *, bins: int = BINS) -> dict[str, list[float]]:
        """`confidence`, `accuracy` and `count` of each bin that is not empty; weights (N,)."""
        flat = np.atleast_2d(self._weights(weights))
        order = self._by_confidence[0]
        numbers, sorted_weights = self._bins(flat, bins), flat[:, order]
        confidence = self.probabilities.max(axis=1)[order]
        count = _bin_sums(numbers, sorted_weights, bins)[0]
        kept = count > 0
        confidences = _bin_sums(numbers, sorted_weights * confidence, bins)[0][kept] / count[kept]
        accuracies = _bin_sums(numbers, sorted_weights * self._hits[order], bins)[0][kept] / count[kept]
        return {
            "confidence": confidences.tolist(),
            "accuracy": accuracies.tolist(),
            "count": count[kept].tolist(),
        }

    def confusion_matrix(self, weights: ArrayLike | None = None) -> Floats:
        """How often a class (row) was predicted as another (column): (C, C); weights (N,)."""
        matrix = np.zeros((self.classes, self.classes))
        np.add.at(matrix, self.labels, self._predicted * self._weights(weights)[:, None])
        return matrix

    @cached_property
    def _predicted(self) -> Floats:
        """(N, C): the share of each class in the prediction, 1 for the best unless several are."""
        best = self.probabilities == self.probabilities.max(axis=1, keepdims=True)
        return best / best.sum(axis=1, keepdims=True)

    @cached_property
    def _hits(self) -> Floats:
        return self._predicted[np.arange(len(self)), self.labels]

    @cached_property
    def _surprise(self) -> Floats:
        own = self.probabilities[np.arange(len(self)), self.labels]
        return -np.log(np.clip(own, np.finfo(np.float64).eps, 1.0))

    @cached_property
    def _one_vs_rest(self) -> list[tuple[NDArray[np.int64], ...]]:
        """For each class: rows by rising score, which are positive, and the bounds of their ties."""
        columns = [1] if self.classes == 2 else [c for c in range(self.classes) if np.any(self.labels == c)]
        plans = []
        for column in columns:
            order, starts, ends = _tie_groups(self.probabilities[:, column])
            positive = self.labels[order] == column
            plans.append((order, order[positive], starts[positive], ends[positive]))
        return plans

    @cached_property
    def _by_confidence(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        return _tie_groups(self.probabilities.max(axis=1))

    @cached_property
    def _gap(self) -> Floats:
        order = self._by_confidence[0]
        return (self._hits - self.probabilities.max(axis=1))[order]

    def _bins(self, weights: Floats, bins: int = BINS) -> NDArray[np.int64]:
        """(R, N): the bin of each row, by rising confidence: the middle of its ties in the sum of weights."""
        order, starts, ends = self._by_confidence
        below = np.zeros((len(weights), len(self) + 1))
        np.cumsum(weights[:, order], axis=1, out=below[:, 1:])
        middle = _ratio((below[:, starts] + below[:, ends]) / 2, below[:, -1:])
        return np.minimum(np.nan_to_num(middle) * bins, bins - 1).astype(np.int64)

    def _counts(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Weight that is right, that has the label, and that is predicted, of each class: (…, C)."""
        own = np.eye(self.classes)[self.labels]
        return weights @ (own * self._predicted), weights @ own, weights @ self._predicted

    def _weights(self, weights: ArrayLike | None) -> Floats:
        if weights is None:
            return np.ones(len(self))
        weights = np.asarray(weights, dtype=np.float64)
        assert weights.ndim in (1, 2)
        assert weights.shape[-1] == len(self)
        return weights


def classification_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    metrics: Sequence[str] = METRICS,
) -> dict[str, float]:
    """The named measures of labels (N,) and probabilities (N, C) under row weights (N,); see `Classified`."""
    measured = Classified(labels, probabilities).measure(weights, metrics=metrics)
    return {name: float(value) for name, value in measured.items()}


def _tie_groups(values: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The order of rising values; at each place of it, the first and the end of its equals."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    return (
        order,
        np.searchsorted(ascending, ascending, side="left"),
        np.searchsorted(ascending, ascending, side="right"),
    )


def _bin_sums(numbers: NDArray[np.int64], values: Floats, bins: int) -> Floats:
    """(R, bins): the sums of values (R, N) in their bins."""
    rows = len(numbers)
    cells = (numbers + bins * np.arange(rows)[:, None]).ravel()
    sums = np.bincount(cells, values.ravel(), minlength=rows * bins)
    return sums.astype(np.float64).reshape(rows, bins)


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where nothing was counted: a replicate that drew none of the rows."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)


def _mean_where(mask: NDArray[np.bool_], values: Floats) -> Floats:
    return _ratio(np.where(mask, values, 0.0).sum(-1), mask.sum(-1).astype(np.float64))
