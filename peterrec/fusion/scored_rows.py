"""Rows with one score, measured against several labels under the weights of a bootstrap."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.fusion.goal import WEIGHTED, Goal
from peterrec.fusion.predictions import Predictions
from peterrec.metrics.impression_rows import WEIGHTINGS
from peterrec.metrics.list_ndcg import list_ndcgs
from peterrec.metrics.measure_name import ndcg_depth
from peterrec.metrics.ranked_pairs import RankedPairs
from peterrec.metrics.ratio import Floats, ratio
from peterrec.metrics.user_auc import user_aucs

Measured = Callable[[Floats], Floats]


class ScoredRows:
    """Some rows of predictions with a score each `(n,)`, for `metrics.intervals`.

    `names` are those of `measures`, then, of several `goals`, their weighted mean. Rows whose label is missing do not
    count. NDCG counts a list once, whatever its rows weigh.
    """

    def __init__(
        self,
        rows: Predictions,
        at: NDArray[np.int64],
        score: Floats,
        *,
        goals: Sequence[Goal],
        measures: Sequence[Goal] | None = None,
    ) -> None:
        self._rows, self._at = rows, at
        _, self._height = np.unique(score, return_inverse=True)  # the order alone counts; -inf has no differences
        self.users: ArrayLike = rows.clusters[at]
        _, self._first, self._clusters = np.unique(self.users, return_index=True, return_inverse=True)
        self._goals = tuple(goals)
        self._measured = {str(one): one for one in (*(measures or ()), *goals)}
        self.names: Sequence[str] = (*self._measured, *([WEIGHTED] if len(goals) > 1 else []))
        self._known: dict[str, Measured] = {}

    def __len__(self) -> int:
        return len(self._at)

    def measure(self, weights: Floats, names: Sequence[str]) -> dict[str, Floats]:
        """The named measures in each replicate, `(R,)` each; `weights` `(R, n)` are equal for all rows of a user."""
        counts = np.take(weights, self._first, axis=-1)
        parts = [str(goal) for goal in self._goals] if WEIGHTED in names else []
        found = {name: self._one(name)(counts) for name in {*names, *parts} - {WEIGHTED}}
        if WEIGHTED in names:
            shares = [goal.weight for goal in self._goals]
            found[WEIGHTED] = np.average([found[name] for name in parts], axis=0, weights=shares)
        return {name: found[name] for name in names}

    @cached_property
    def whole(self) -> dict[str, float]:
        """Each measure on the rows as they are."""
        found = self.measure(np.ones((1, len(self))), self.names)
        return {name: float(values[0]) for name, values in found.items()}

    def _one(self, name: str) -> Measured:
        if name not in self._known:
            self._known[name] = self._prepared(self._measured[name])
        return self._known[name]

    def _prepared(self, goal: Goal) -> Measured:
        label = self._rows.labels[goal.label][self._at]
        rows = np.flatnonzero(~np.isnan(label))
        label, height, clusters = label[rows], self._height[rows], self._clusters[rows]
        weight = None if self._rows.weight is None else self._rows.weight[self._at][rows].astype(np.float64)
        if goal.measure == "auc":
            return RankedPairs(label, height, clusters=clusters, row_weights=weight).auc
        if (k := ndcg_depth(goal.measure)) is not None:
            lists = list_ndcgs(label, height, self._rows.lists[self._at][rows], k=k)
            own = clusters[lists.rows]

            def ndcg(counts: Floats) -> Floats:
                drawn = np.take(counts, own, axis=-1)
                return ratio(drawn @ lists.ndcg, drawn.sum(-1))

            return ndcg
        aucs = user_aucs(label, height, clusters, weights=weight)
        return lambda counts: aucs.mean(WEIGHTINGS[goal.measure], np.take(counts, aucs.users, axis=-1))
