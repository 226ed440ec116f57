"""Predicted probabilities against what came of them, in bins of equally many rows."""

from math import sqrt

import numpy as np
from numpy.typing import ArrayLike

DECILES = 10
Z = 1.959963984540054  # two-sided 95 %


def calibration_bins(
    labels: ArrayLike, predictions: ArrayLike, *, weights: ArrayLike | None = None, bins: int = DECILES
) -> list[dict[str, float]]:
    """Rows of labels 0 or 1 and probabilities (N,) in `bins` bins of equal weight, by rising prediction.

    Each bin that is not empty: mean `predicted`, share `observed`, the Wilson interval `low` to `high` of that share
    (as if rows were independent), and its `rows`. Rows of one prediction always share a bin, so that a model which
    predicts few values has fewer bins.
    """
    label, told = np.asarray(labels, dtype=np.float64), np.asarray(predictions, dtype=np.float64)
    weight = np.ones(len(label)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not len(label) or not weight.sum() > 0:
        return []
    _, place = np.unique(told, return_inverse=True)
    tied = np.bincount(place, weight)
    middle = (np.cumsum(tied) - tied / 2) / tied.sum()
    number = np.minimum(middle * bins, bins - 1).astype(np.int64)[place]
    columns = (weight, weight**2, weight * told, weight * label, np.ones(len(label)))
    sums = np.stack([np.bincount(number, column, minlength=bins) for column in columns], axis=-1)
    found = []
    for total, squares, predicted, positive, rows in sums[sums[:, 0] > 0].tolist():
        observed = min(positive / total, 1.0)
        low, high = wilson(observed, total**2 / squares)  # Kish's effective number of rows
        found.append(
            {"low": low, "high": high, "predicted": predicted / total, "observed": observed, "rows": int(rows)}
        )
    return found


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` rows (Wilson, 1927): within 0 to 1, and of some width for 0 and 1 too."""
    middle = share + Z**2 / (2 * count)
    half = Z * sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    scale = 1 + Z**2 / count
    # the bounds hold the share itself, whatever rounding says
    return max(min((middle - half) / scale, share), 0.0), min(max((middle + half) / scale, share), 1.0)
