"""The share of positives, the same for every impression, or for every impression of a domain."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions
from peterrec.errors import DataError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class BaseRate:
    """The share of positives among the training rows: `rate`, and `of_domain` (K,), each domain's own or else `rate`.

    Rows whose domain is unknown, or had no training rows, get `rate`.
    """

    def __init__(self, rate: float, *, of_domain: Floats) -> None:
        self.rate = rate
        self.of_domain = of_domain

    @classmethod
    def fit(
        cls, impressions: Impressions, *, rows: Ints, label: str, per_domain: bool = False, row_weights: bool = True
    ) -> Self:
        """Count a label in `rows` (n,), those that have it; by the impressions' weights, unless not `row_weights`.

        Raises DataError where no row has the label.
        """
        rows, labels, weights = training_rows(impressions, rows, label=label, row_weights=row_weights)
        rate = float(np.average(labels, weights=weights))
        of_domain = np.full(len(impressions.schema.domains), rate)
        if per_domain and len(of_domain):
            domain = impressions.domain[rows]
            known = domain >= 0
            total = np.bincount(domain[known], weights[known], minlength=len(of_domain))
            positive = np.bincount(domain[known], (weights * labels)[known], minlength=len(of_domain))
            np.divide(positive, total, out=of_domain, where=total > 0)
        return cls(rate, of_domain=of_domain)

    def predict(self, impressions: Impressions, rows: Ints) -> Floats:
        """The probabilities (B,) of `rows` (B,)."""
        if not len(self.of_domain):
            return np.full(len(rows), self.rate)
        domain = np.asarray(impressions.domain[rows])
        return np.where(domain >= 0, self.of_domain[np.maximum(domain, 0)], self.rate)


def training_rows(
    impressions: Impressions, rows: Ints, *, label: str, row_weights: bool
) -> tuple[Ints, Floats, Floats]:
    """`labelled_rows`, of which there must be one: raises DataError where there is none."""
    found = labelled_rows(impressions, rows, label=label, row_weights=row_weights)
    if not len(found[0]):
        raise DataError(
            f"{impressions.folder}: none of the {len(rows):,} training rows has the label {label!r} and a weight above "
            "0, so nothing can be learned of it; prepare more rows, or leave the label out of the task."
        )
    return found


def labelled_rows(
    impressions: Impressions, rows: Ints, *, label: str, row_weights: bool
) -> tuple[Ints, Floats, Floats]:
    """Those of `rows` (n,) that have the label and a weight above 0, with their labels and weights."""
    rows = np.asarray(rows, dtype=np.int64)
    labels = impressions.labels[label][rows].astype(np.float64)
    weights = np.ones(len(rows))
    if row_weights and impressions.weight is not None:
        weights = impressions.weight[rows].astype(np.float64)
    kept = ~np.isnan(labels) & (weights > 0)
    return rows[kept], labels[kept], weights[kept]
