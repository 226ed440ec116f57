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
GRID = tuple(10 ** (power / 4) for power in range(-6, 9))  # 0.03, 0.06, 0.1, …, 100
SHARES = (0.0, 0.3, 0.7, 1.4, 2.8)  # of the deviations beside the vectors: their prior's standard deviation
STEPS = 300
TOLERANCE = 1e-5  # of the gradient of the mean loss


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
    items. Both are chosen by the held-out log loss in stratified cross-validation, the share upwards from 0 as long as
    it helps. `scales` `(V,)` multiply an item's prior standard deviation.
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

    def fit(self, *, alone: bool = False) -> Solution:
        """The regression with the C and the share that cross-validation finds; C = 1, share 0 where it cannot tell.

        With the vectors `alone` the share is 0.
        """
        C, share = self._search(SHARES[:1] if alone else SHARES)
        every = np.arange(len(self._labels))
        found = self._solve(every, C=C, share=share, start=None)
        weights, deviations, intercepts = self._parts(found)
        return Solution(weights, share * deviations * self._scales[:, None], intercepts.copy(), C, share)

    def _search(self, shares: tuple[float, ...]) -> tuple[float, float]:
        folds = 5 if len(self._labels) < FEW_ROWS else 3
        parts = stratified_folds(self._labels, folds=folds, rows=SEARCH_ROWS, seed=self._seed)
        best, smallest = (1.0, 0.0), math.inf
        grid: tuple[float, ...] = GRID
        for share in shares if parts else ():
            before = smallest
            starts: list[Floats | None] = [None] * len(parts)
            last = math.inf
            for C in grid:
                loss = 0.0
                for number, (train, held) in enumerate(parts):
                    starts[number] = self._solve(train, C=C, share=share, start=starts[number])
                    loss += self._loss(held, starts[number], share=share)
                if loss < smallest:
                    best, smallest = (C, share), loss
                if loss >= last:
                    break
                last = loss
            if smallest >= before:
                break
            # more of the deviations wants no weaker penalty on both
            grid = tuple(C for C in GRID if best[0] / 11 < C <= best[0] * 1.01)
        return best

    def _parts(self, flat: Floats) -> tuple[Floats, Floats, Floats]:
        D, V, C = self._vectors.shape[1], self._bags.shape[1], self._classes
        return flat[: D * C].reshape(D, C), flat[D * C : (D + V) * C].reshape(V, C), flat[(D + V) * C :]

    def _logits(self, rows: NDArray[np.int64], flat: Floats, *, share: float) -> Floats:
        weights, deviations, intercepts = self._parts(flat)
        found = self._vectors[rows] @ weights + intercepts
        return found + share * (self._bags[rows] @ deviations) if share else found

    def _loss(self, rows: NDArray[np.int64], flat: Floats | None, *, share: float) -> float:
        assert flat is not None
        log_shares = _log_softmax(self._logits(rows, flat, share=share))
        return -float((log_shares[np.arange(len(rows)), self._labels[rows]] * self._weights[rows]).sum())

    def _solve(self, rows: NDArray[np.int64], *, C: float, share: float, start: Floats | None) -> Floats:
        from scipy.optimize import minimize

        vectors, bags, labels = self._vectors[rows], self._bags[rows], self._labels[rows]
        turned = bags.T.tocsr()
        users = self._weights[rows][:, None]
        onehot = np.eye(self._classes)[labels]

        def value_and_slope(flat: Floats) -> tuple[float, Floats]:
            weights, deviations, intercepts = self._parts(flat)
            logits = vectors @ weights + intercepts
            if share:
                logits = logits + share * (bags @ deviations)
            log_shares = _log_softmax(logits)
            value = -float((users * onehot * log_shares).sum())
            value += 0.5 / C * float((weights**2).sum() + (deviations**2).sum())
            slope = users * (np.exp(log_shares) - onehot)
            of_items = deviations / C
            if share:
                of_items = of_items + share * (turned @ slope)
            parts = (vectors.T @ slope + weights / C, of_items, slope.sum(axis=0))
            return value / len(rows), np.concatenate([part.ravel() for part in parts]) / len(rows)

        size = (self._vectors.shape[1] + self._bags.shape[1] + 1) * self._classes
        begun = np.zeros(size) if start is None else start
        options = {"maxiter": STEPS, "gtol": TOLERANCE, "ftol": 1e-10}
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
) -> dict[str, float]:
    """Sets `head`, and the two thin matrices `(V, R)` and `(R, D)` whose product moves the item table, together.

    `vectors` `(N, D)` are those of the table as it was, `bags` `(N, V)` say how much of each item's row is in each.
    Logits are linear in the table, so that deviations δ `(V, C)` of logits are the table's E + s δ (Wᵀ)⁺, with the
    head's W and scale s: convex, solved once. Returns `head_C` and `item_share`, chosen by cross-validation; the share
    is 0, and the table as it was, where single items say nothing more. R must be C at least.
    """
    assert isinstance(head.norm, HeadScale), "a head of ClassificationHead(..., common_scale=True)"
    left, right = thin
    classes = len(head.output.weight)
    assert left.shape[1] >= classes
    inputs = head.norm.fit(vectors.cpu()).numpy()
    problem = ItemRegression(
        inputs, bags, labels, num_classes=classes, scales=scales, class_weights=class_weights, seed=seed
    )
    found = problem.fit()
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
        found = problem.fit(alone=True)
    head.output.weight.copy_(torch.from_numpy(found.weights.T))
    head.output.bias.copy_(torch.from_numpy(found.intercepts))
    return {"head_C": found.C, "item_share": found.share}


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
