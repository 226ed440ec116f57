"""Logistic regression whose penalty is chosen by cross-validation on the training labels."""

import math
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.linear_model import LogisticRegression

    Features = csr_array | NDArray[np.float64]

GRID = tuple(10 ** (power / 2) for power in range(-3, 6))  # 0.03, 0.1, …, 316
FEW_ROWS = 2000  # below this 5 folds, so that training folds are nearly whole; above, 3 folds say the same
SEARCH_ROWS = 20_000  # more rows would not move C by a step of the grid
TOLERANCE = 1e-3  # the largest gradient that is left, as a share of the largest without any weights


class Logistic:
    """Multinomial logistic regression with an L2 penalty of 1/C on everything but the intercepts.

    `C="cv"` takes the C of `GRID` with the smallest held-out log loss in stratified cross-validation, going
    upwards until it has risen twice. Small label sets are welcome: a class that a training fold lacks is not scored in
    that fold, and where there is one class only, it is certain. A class without training labels has
    probability 0.
    """

    def __init__(self, *, C: float | Literal["cv"] = "cv", seed: int = 0) -> None:
        if C != "cv" and not 0 < C < math.inf:
            raise SettingsError(f'C of the logistic regression is {C!r}: give a number above 0, or "cv".')
        self.C: float | Literal["cv"] = C
        self.seed: int = seed
        self.chosen_C: float | None = None
        self._model: LogisticRegression | None = None
        self._shares: NDArray[np.float64] | None = None

    def fit(
        self,
        features: "Features",
        labels: ArrayLike,
        *,
        num_classes: int,
        class_weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit to features (N, F) and labels (N,) in 0…C-1, the loss of each class weighed by `class_weights` (C,)."""
        labels = np.asarray(labels, dtype=np.int64)
        assert len(labels)
        counts = np.bincount(labels, minlength=num_classes)
        assert len(counts) == num_classes
        self._shares = counts / counts.sum()
        self._model, self.chosen_C = None, None
        if (counts > 0).sum() > 1:
            weights = None
            if class_weights is not None:
                weights = np.asarray(class_weights, dtype=np.float64)[labels]
                weights = weights * (len(labels) / weights.sum())  # so that C means what it means without
            self.chosen_C = self._search(features, labels, weights) if self.C == "cv" else self.C
            self._model = _model(features, labels).set_params(C=self.chosen_C).fit(features, labels, weights)
        return self

    @property
    def shares(self) -> NDArray[np.float64]:
        """The shares of the classes (C,) in the training labels."""
        assert self._shares is not None, "fit first"
        return self._shares

    def map(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The linear map whose softmax is `predict`: weights (C, F), 0 columns for one class, and intercepts (C,).

        A class without training labels has the intercept -inf.
        """
        shares = self.shares
        intercepts = np.full(len(shares), -np.inf)
        if self._model is None:
            intercepts[shares > 0] = 0.0
            return np.zeros((len(shares), 0)), intercepts
        weights, own = np.asarray(self._model.coef_), np.asarray(self._model.intercept_)
        if len(weights) == 1:  # of two classes scikit-learn keeps the difference
            weights, own = np.stack([-weights[0], weights[0]]) / 2, np.array([-own[0], own[0]]) / 2
        found = np.zeros((len(shares), weights.shape[1]))
        found[self._model.classes_] = weights
        intercepts[self._model.classes_] = own
        return found, intercepts

    def predict(self, features: "Features") -> NDArray[np.float64]:
        """The probabilities (N, C) of all classes in their given order."""
        shares = self.shares
        count, _ = cast("tuple[int, int]", features.shape)
        if self._model is None:
            return np.tile(shares, (count, 1))
        probabilities = np.zeros((count, len(shares)))
        if count:
            probabilities[:, self._model.classes_] = self._model.predict_proba(features)
        return probabilities

    def _search(self, features: "Features", labels: NDArray[np.int64], weights: NDArray[np.float64] | None) -> float:
        """The best C of the grid, or 1 where the labels are too few to tell."""
        folds = 5 if len(labels) < FEW_ROWS else 3
        parts = []
        for train, held in stratified_folds(labels, folds=folds, rows=SEARCH_ROWS, seed=self.seed):
            model = _model(features[train], labels[train])
            own, theirs = (None, None) if weights is None else (weights[train], weights[held])
            parts.append((model, features[train], labels[train], own, features[held], labels[held], theirs))
        best, smallest, rises = 1.0, math.inf, 0
        for C in GRID if parts else ():
            losses = []
            for model, inputs, targets, own, held_inputs, held_targets, theirs in parts:
                model.set_params(C=C).fit(inputs, targets, own)  # from the solution for the C before
                columns = np.searchsorted(model.classes_, held_targets)
                probabilities = model.predict_proba(held_inputs)[np.arange(len(columns)), columns]
                found = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
                losses.append(found if theirs is None else found * theirs)
            loss = float(np.concatenate(losses).mean())
            rises = rises + 1 if loss >= smallest else 0
            if rises == 2:  # one may be noise: at the smallest C all losses are nearly those of the class shares
                break
            if not rises:
                best, smallest = C, loss
        return best


def stratified_folds(
    labels: NDArray[np.int64], *, folds: int, rows: int, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(training rows, held-out rows) of each fold, over at most `rows` of the labels (N,).

    Rows are dealt out class by class, so that every class is spread as evenly as its size allows. Held-out
    rows of a class that the training rows lack are left out, and so are folds without two classes to learn or
    rows to score.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    dealt = shuffled[np.argsort(labels[shuffled], kind="stable")]
    if len(dealt) > rows:
        dealt = dealt[np.linspace(0, len(dealt) - 1, rows).astype(np.int64)]
    number = np.arange(len(dealt)) % folds
    found = []
    for fold in range(folds):
        train, held = np.sort(dealt[number != fold]), np.sort(dealt[number == fold])
        known = np.unique(labels[train])
        held = held[np.isin(labels[held], known)]
        if len(known) > 1 and len(held):
            found.append((train, held))
    return found


def _model(features: "Features", labels: NDArray[np.int64]) -> "LogisticRegression":
    """Newton's method: some five steps for any C, where first-order solvers need a hundred for a large one.

    scikit-learn compares the gradient with `tol` as it is, which for rows of unit length over a large
    catalogue would stop at once: hence the share.
    """
    from sklearn.linear_model import LogisticRegression

    onehot = np.eye(labels.max() + 1)[labels]
    gradient = features.T @ (onehot - onehot.mean(axis=0)) / len(labels)
    tolerance = TOLERANCE * float(np.abs(gradient).max(initial=0)) or TOLERANCE
    return LogisticRegression(solver="newton-cg", tol=tolerance, max_iter=1000, warm_start=True)
