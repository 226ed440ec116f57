"""A head and deviations of single items from a frozen table, as one regression: what an item adapter can be at best."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.heads.classification import ClassificationHead, HeadScale
from peterrec.heads.logistic import FEW_ROWS, SEARCH_ROWS, stratified_folds

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
GRID = tuple(10 ** (power / 2) for power in range(-3, 5))  # of C: 0.03, 0.1, …, 100
BETWEEN = 10**0.25  # what the best of the grid is refined by
SHARES = (0.0, 0.35, 0.7, 1.4, 2.8)  # of the deviations beside the vectors: their prior's standard deviation
FOLDS = 5
CAUTION = 2  # standard errors that a share above 0 must gain
STEPS = 300
MEMORY = 60  # updates that L-BFGS remembers: 60 take half of the steps that 10 take
TOLERANCE = 3e-5  # of the gradient of the mean loss


@dataclass(frozen=True)
class Solution:
    """Logits are vectors · `weights` `(D, C)` + bags · `deviations` `(V, C)` + `intercepts` `(C,)`.

    `C` and `share` are what cross-validation chose.
    """

    weights: Floats
    deviations: Floats
    intercepts: Floats
    C: float
    share: float

    def logits(self, vectors: Floats, bags: "csr_array") -> Floats:
        """Of vectors `(N, D)` and bags `(N, V)`, `(N, C)`."""
        found = vectors @ self.weights + self.intercepts
        return found + bags @ self.deviations if self.share else found


class ItemRegression:
    """L2 regression on vectors `(N, D)` and bags `(N, V)`, whose rows are the weights of a history's items.

    The penalty is |W|²/2C on the weights and |δ|²/2C·share² on the deviations (of bags scaled to mean squared norm 1,
    as the vectors are): with share 0 it is the regression on the vectors alone, with a large one that on the bag of
    items. `scales` `(V,)` multiply an item's prior standard deviation.
    """

    def __init__(
        self,
        vectors: Floats,
        bags: "csr_array",
        labels: NDArray[np.int64],
        *,
        num_classes: int,
        scales: Floats,
        class_weights: Floats | None = None,
        seed: int = 0,
    ):
        self._vectors, self._labels, self._classes, self._seed = vectors, labels, num_classes, seed
        scaled = bags * scales[None, :]
        scaled = scaled.tocsr()
        norm = math.sqrt(float(scaled.multiply(scaled).sum()) / max(len(labels), 1)) or 1.0
        self._bags = scaled * (1 / norm)
        self._scales = scales / norm
        weights = np.ones(len(labels)) if class_weights is None else np.asarray(class_weights, float)[labels]
        self._weights = weights * (len(labels) / weights.sum())
        # of two classes, whose columns are each other's negatives, one column is sought
        self._spread = np.array([[-0.5, 0.5]]) if num_classes == 2 else np.eye(num_classes)

    def solve(self, *, C: float, share: float) -> Solution:
        """The regression with these penalties, on all rows."""
        weights, deviations, intercepts = self._parts(self._solve(np.arange(len(self._labels)), C, share))
        deviations = share * (deviations @ self._spread) * self._scales[:, None]
        return Solution(weights @ self._spread, deviations, (intercepts @ self._spread).ravel(), C, share)

    def search(self) -> tuple[float, float]:
        """C and share with the smallest held-out log loss in stratified cross-validation.

        C is sought upwards for the vectors alone; then the share upwards as long as it helps, each with the same C or
        smaller ones, since more of the deviations wants no weaker penalty on both. Any share at all must gain more than
        two standard errors of its gain: with few labels the vectors alone are safer. (1, 0) where labels are too few.
        """
        parts = stratified_folds(self._labels, folds=FOLDS, rows=SEARCH_ROWS, seed=self._seed)
        if not parts:
            return 1.0, 0.0
        starts: list[Floats | None] = [None] * len(parts)

        def losses(C: float, share: float) -> Floats:
            found = []
            for number, (train, held) in enumerate(parts):
                solved = starts[number] = self._solve(train, C, share, start=starts[number])
                found.append(self._losses(held, solved, share=share))
            return np.concatenate(found)

        best, smallest = (1.0, 0.0), np.full(sum(len(held) for _, held in parts), math.inf)
        rises = 0
        for C in GRID:
            found = losses(C, 0.0)
            rises = rises + 1 if found.sum() >= smallest.sum() else 0
            if rises == 2 and len(self._labels) >= FEW_ROWS:  # of few rows rises may be noise
                break
            if not rises:
                best, smallest = (C, 0.0), found
        alone = best, smallest
        for share in SHARES[1:]:
            before = smallest.sum()
            for C in (C for C in reversed(GRID) if best[0] >= C):
                if (found := losses(C, share)).sum() < smallest.sum():
                    best, smallest = (C, share), found
                elif smallest.sum() < before or 0.2 * best[0] > C:
                    break
            if smallest.sum() >= before:
                break
        gain = alone[1] - smallest
        if gain.sum() <= CAUTION * gain.std() * math.sqrt(len(gain)):
            best, smallest = alone
        for C in (best[0] / BETWEEN, best[0] * BETWEEN):
            if (found := losses(C, best[1])).sum() < smallest.sum():
                best, smallest = (C, best[1]), found
        return best

    def _parts(self, flat: Floats) -> tuple[Floats, Floats, Floats]:
        D, V = self._vectors.shape[1], self._bags.shape[1]
        columns = flat.reshape(D + V + 1, -1)
        return columns[:D], columns[D : D + V], columns[D + V :]

    def _logits(self, rows: NDArray[np.int64], flat: Floats, *, share: float) -> Floats:
        weights, deviations, intercepts = self._parts(flat)
        found = self._vectors[rows] @ weights + intercepts
        return (found + share * (self._bags[rows] @ deviations) if share else found) @ self._spread

    def _losses(self, rows: NDArray[np.int64], flat: Floats, *, share: float) -> Floats:
        log_shares = _log_softmax(self._logits(rows, flat, share=share))
        return -log_shares[np.arange(len(rows)), self._labels[rows]] * self._weights[rows]

    def _solve(self, rows: NDArray[np.int64], C: float, share: float, *, start: Floats | None = None) -> Floats:
        from scipy.optimize import minimize

        vectors, bags = self._vectors[rows], self._bags[rows]
        turned = bags.T.tocsr()
        users = self._weights[rows][:, None]
        onehot = np.eye(self._classes)[self._labels[rows]]
        decay = float((self._spread**2).sum()) / len(self._spread) / C

        def value_and_slope(flat: Floats) -> tuple[float, Floats]:
            weights, deviations, intercepts = self._parts(flat)
            logits = vectors @ weights + intercepts
            if share:
                logits = logits + share * (bags @ deviations)
            log_shares = _log_softmax(logits @ self._spread)
            value = -float((users * onehot * log_shares).sum())
            value += 0.5 * decay * float((weights**2).sum() + (deviations**2).sum())
            slope = (users * (np.exp(log_shares) - onehot)) @ self._spread.T
            of_items = decay * deviations
            if share:
                of_items = of_items + share * (turned @ slope)
            parts = (vectors.T @ slope + decay * weights, of_items, slope.sum(axis=0, keepdims=True))
            return value / len(rows), np.concatenate(parts).ravel() / len(rows)

        size = (self._vectors.shape[1] + self._bags.shape[1] + 1) * len(self._spread)
        begun = np.zeros(size) if start is None else start
        options = {"maxiter": STEPS, "gtol": TOLERANCE, "ftol": 1e-10, "maxcor": MEMORY}
        return minimize(value_and_slope, begun, jac=True, method="L-BFGS-B", options=options).x


@torch.no_grad()
def fit_items(
    head: ClassificationHead,
    thin: tuple[Tensor, Tensor],
    vectors: Tensor,
    bags: "csr_array",
    labels: NDArray[np.int64],
    *,
    scales: Floats,
    class_weights: Floats | None = None,
    seed: int,
    chosen: tuple[float, float] | None = None,
) -> tuple[float, float]:
    """Sets `head`, and the two thin matrices `(V, R)` and `(R, D)` whose product moves the item table, together.

    `vectors` `(N, D)` are those of the table as it was, `bags` `(N, V)` say how much of each item's row is in each.
    Logits are linear in the table, so that deviations δ `(V, C)` of logits are the table's E + s δ (Wᵀ)⁺, with the
    head's W and scale s: convex, solved once. Returns C and the share, which are `chosen` or found by cross-validation;
    the share is 0, and the table as it was, where single items say nothing more. What was `chosen` counts where rows
    are many: few ones are looked at anew. R must be the classes at least.
    """
    assert isinstance(head.norm, HeadScale), "a head of ClassificationHead(..., common_scale=True)"
    left, right = thin
    classes = len(head.output.weight)
    assert left.shape[1] >= classes
    inputs = head.norm.fit(vectors.cpu()).numpy()
    problem = ItemRegression(
        inputs, bags, labels, num_classes=classes, scales=scales, class_weights=class_weights, seed=seed
    )
    C, share = problem.search() if chosen is None or len(labels) < FEW_ROWS else chosen
    found = problem.solve(C=C, share=share)
    back = np.linalg.pinv(found.weights, rcond=1e-6)
    left.zero_()
    right.zero_()
    told = found.deviations @ (back @ found.weights)
    if found.share and np.abs(told - found.deviations).max() <= 1e-3 * np.abs(found.deviations).max():
        # both of like size, for what is stored in single precision
        balance = math.sqrt(float(np.abs(found.deviations).max() / np.abs(back).max()))
        left[:, :classes] = torch.from_numpy(found.deviations / balance)
        right[:classes] = torch.from_numpy(float(head.norm.scale) * balance * back)
    elif found.share:  # the head reads too little to tell the deviations apart
        found = problem.solve(C=C, share=0.0)
    head.output.weight.copy_(torch.from_numpy(found.weights.T))
    head.output.bias.copy_(torch.from_numpy(found.intercepts))
    return found.C, found.share


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
