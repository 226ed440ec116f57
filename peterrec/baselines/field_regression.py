"""Logistic regression on the fields of impressions: the baseline of click and conversion rates."""

import math
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.base_rate import BaseRate, labelled_rows, training_rows
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
GRID = (0.01, 0.1, 1.0, 10.0, 100.0)
TOLERANCE = 1e-4  # the largest gradient that is left, as a share of the largest without any weights
OF_PENALTY = 1.0  # and as a share of what the penalty adds at a weight of 1, or a larger C would find nothing to do
ENOUGH = 10_000  # held-out rows from which on one rise of their loss is no noise
_ROWS_AT_ONCE = 1 << 18


class FieldRegression:
    """Probabilities of one label: logistic regression with an L2 penalty of 1/C on everything but the intercept.

    Its columns are one a row of each categorical field's table and one a domain, standardised numbers with one column
    for "missing" each, and the values of a multi field as a multi-hot row. `C` is what `fit` chose, None where the
    training labels are all alike, whose share is then the prediction.
    """

    def __init__(self, coding: FieldCoding, *, domains: int, model: "LogisticRegression | BaseRate") -> None:
        self.coding = coding
        self.domains = domains
        self._model = model

    @property
    def C(self) -> float | None:
        """1 / penalty."""
        return None if isinstance(self._model, BaseRate) else float(self._model.C)

    @classmethod
    def fit(
        cls,
        impressions: Impressions,
        *,
        coding: FieldCoding,
        rows: Ints,
        validation: Ints,
        label: str,
        row_weights: bool = True,
    ) -> Self:
        """Learn a label of 0 and 1 from the training `rows` (n,); rows without it are left out.

        C is that of `GRID` with the smallest log loss on the `validation` rows (m,), going upwards until it has risen
        twice, of many rows once; it is 1 where none of them has the label. Rows count by the impressions' weights,
        unless not `row_weights`. Raises DataError where no training row has the label, or one holds another value
        than 0 or 1.
        """
        from sklearn.linear_model import LogisticRegression

        domains = len(impressions.schema.domains)
        rows, labels, weights = training_rows(impressions, rows, label=label, row_weights=row_weights)
        if not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"{impressions.folder}: the label {label!r} holds other values than 0 and 1; prepare it with a "
                f"comparison, such as --label {label}=COLUMN>=4."
            )
        if labels.min() == labels.max():
            return cls(coding, domains=domains, model=BaseRate(float(labels[0]), of_domain=np.zeros(0)))
        features = _features(impressions, rows, coding=coding, domains=domains)
        weights = weights / weights.mean()  # so that C means what it means without
        model = LogisticRegression(solver="newton-cg", max_iter=1000, warm_start=True)
        held = _Held.of(impressions, validation, coding=coding, domains=domains, label=label, row_weights=row_weights)
        if held is None:
            _fit(model, features, labels, weights, C=1.0)
            return cls(coding, domains=domains, model=model)
        best, smallest, rises = (1.0, np.zeros(0), np.zeros(0)), math.inf, 0
        for C in GRID:
            _fit(model, features, labels, weights, C=C)
            loss = held.log_loss(model)
            rises = rises + 1 if loss >= smallest else 0
            if rises == (1 if len(held) >= ENOUGH else 2):
                break
            if not rises:
                best, smallest = (C, np.array(model.coef_), np.array(model.intercept_)), loss
        C, model.coef_, model.intercept_ = best
        return cls(coding, domains=domains, model=model.set_params(C=C))

    def predict(self, impressions: Impressions, rows: Ints) -> Floats:
        """The probabilities (B,) of `rows` (B,)."""
        rows = np.asarray(rows, dtype=np.int64)
        if isinstance(self._model, BaseRate):
            return self._model.predict(impressions, rows)
        found = np.empty(len(rows))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            features = _features(impressions, rows[part], coding=self.coding, domains=self.domains)
            found[part] = self._model.predict_proba(features)[:, 1]
        return found


class _Held:
    """What C is chosen by."""

    def __init__(self, features: "csr_array", labels: Floats, weights: Floats) -> None:
        self._features, self._labels, self._weights = features, labels, weights

    @classmethod
    def of(
        cls, impressions: Impressions, rows: Ints, *, coding: FieldCoding, domains: int, label: str, row_weights: bool
    ) -> "_Held | None":
        """The rows that have the label; None where there is none."""
        rows, labels, weights = labelled_rows(impressions, rows, label=label, row_weights=row_weights)
        if not len(rows):
            return None
        return cls(_features(impressions, rows, coding=coding, domains=domains), labels, weights)

    def __len__(self) -> int:
        return len(self._labels)

    def log_loss(self, model: "LogisticRegression") -> float:
        """−Σ w [y ln p + (1 − y) ln(1 − p)] / Σ w."""
        logits = model.decision_function(self._features)
        losses = np.logaddexp(0, logits) - self._labels * logits
        return float(np.average(losses, weights=self._weights))


def _features(impressions: Impressions, rows: Ints, *, coding: FieldCoding, domains: int) -> "csr_array":
    """The columns (B, W) of `rows` (B,)."""
    from scipy.sparse import csr_array, hstack

    batch, sizes = coding.batch(impressions, rows), coding.sizes
    count = len(rows)
    starts = np.cumsum([0, *sizes.categorical])
    fields = len(sizes.categorical)
    columns = (batch.categorical.numpy() + starts[:-1]).ravel()
    blocks = [csr_array((np.ones(len(columns)), columns, np.arange(count + 1) * fields), shape=(count, starts[-1]))]
    numbers = np.concatenate([batch.numeric.numpy(), batch.missing.numpy()], axis=1)
    blocks.append(csr_array(numbers.astype(np.float64)))
    for (flat, offsets), size in zip(batch.multi, sizes.multi, strict=True):
        values = flat.numpy()
        hot = csr_array((np.ones(len(values)), values, np.append(offsets.numpy(), len(values))), shape=(count, size))
        hot.sum_duplicates()
        hot.data[:] = 1  # several unseen values share a column
        blocks.append(hot)
    domain = np.asarray(impressions.domain[rows])
    known = domain >= 0
    ends = np.concatenate([[0], np.cumsum(known)])
    blocks.append(csr_array((np.ones(ends[-1]), domain[known], ends), shape=(count, domains)))
    return csr_array(hstack(blocks, format="csr"))


def _fit(model: "LogisticRegression", features: "csr_array", labels: Floats, weights: Floats, *, C: float) -> None:
    """Newton's method from the model's last solution, as exact for rare columns as for frequent ones."""
    gradient = features.T @ (weights * (labels - np.average(labels, weights=weights))) / len(labels)
    largest = float(np.abs(gradient).max(initial=0))
    tolerance = min(TOLERANCE * largest, OF_PENALTY / (C * len(labels))) or TOLERANCE
    model.set_params(C=C, tol=tolerance).fit(features, labels, weights)
