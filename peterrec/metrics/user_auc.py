"""GAUC: the mean over users of each one's own AUC, where what all of them like tells nothing.

Users whose rows have one class have no AUC and are left out. Which mean is meant must be said: `impressions` weighs
a user by the weight of their rows (Zhou et al., KDD 2018, "Deep Interest Network", section 6.2), `users` all alike,
`positives` by that of their positive rows.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.errors import SettingsError, did_you_mean
from peterrec.metrics.ratio import Floats, ratio

Weighting = Literal["impressions", "users", "positives"]


@dataclass(frozen=True)
class UserAucs:
    """Each of U users: the id, the AUC (NaN with one class), and the weight of all and of the positive rows, (U,)."""

    users: NDArray
    auc: Floats
    impressions: Floats
    positives: Floats

    def weights(self, weighting: Weighting) -> Floats:
        """What each user weighs in the mean (U,); 0 for those without an AUC."""
        found = {"impressions": self.impressions, "users": np.ones_like(self.auc), "positives": self.positives}
        if weighting not in found:
            raise SettingsError(f"GAUC has no weighting {weighting!r}. {did_you_mean(weighting, get_args(Weighting))}")
        return np.where(np.isnan(self.auc), 0.0, found[weighting])

    def mean(self, weighting: Weighting, counts: ArrayLike | None = None) -> Floats:
        """The GAUC () or (R,), each user counted `counts` times, (U,) or (R, U); NaN where no user has both classes."""
        weights = self.weights(weighting)
        times = np.ones(len(weights)) if counts is None else np.asarray(counts, dtype=np.float64)
        return ratio(times @ (weights * np.nan_to_num(self.auc)), times @ weights)


def user_aucs(
    labels: ArrayLike, predictions: ArrayLike, users: ArrayLike, *, weights: ArrayLike | None = None
) -> UserAucs:
    """Every user's AUC from labels 0 or 1, predictions, user ids and weights of rows, (N,) each; ties count a half."""
    ids, place = np.unique(np.asarray(users), return_inverse=True)
    scores = np.asarray(predictions, dtype=np.float64)
    order = np.lexsort((scores, place))
    place, scores = place[order], scores[order]
    own = np.ones(len(order)) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    positive = np.where(np.asarray(labels)[order] == 1, own, 0.0)
    above = _sums(place, positive, len(ids))
    all_rows = _sums(place, own, len(ids))
    # where the ties of each row begin and end, and where its user begins
    another = (np.diff(place, prepend=-1) != 0) | (np.diff(scores, prepend=0.0) != 0)
    breaks = np.r_[np.flatnonzero(another), len(order)]
    tie = np.repeat(np.arange(len(breaks) - 1), np.diff(breaks))
    first = np.searchsorted(place, np.arange(len(ids)))
    running = np.r_[0.0, np.cumsum(own - positive)]
    beaten = (running[breaks[tie]] + running[breaks[tie + 1]]) / 2 - running[first[place]]
    areas = _sums(place, positive * beaten, len(ids))
    return UserAucs(ids, ratio(areas, above * (all_rows - above)), all_rows, above)


def gauc(
    labels: ArrayLike,
    predictions: ArrayLike,
    users: ArrayLike,
    *,
    weighting: Weighting = "impressions",
    weights: ArrayLike | None = None,
) -> float:
    """The weighted mean of the users' AUCs; NaN where none has both classes. Raises SettingsError on a weighting."""
    return float(user_aucs(labels, predictions, users, weights=weights).mean(weighting))


def _sums(place: NDArray[np.integer], values: Floats, count: int) -> Floats:
    return np.bincount(place, values, minlength=count).astype(np.float64)
