"""Losses of scores on rows that compete within groups: pairs (BPR) and lists (ListNet).

A row of weight w counts as w equal rows would. A group whose rows that count have one class tells nothing of order and
adds nothing. What hangs on labels, weights and groups alone is made on the host, so that a step waits for no device.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from peterrec.objective_recipe import Loss

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Every positive row with every negative one of its group: rows `(P,)` and what each pair weighs `(P,)`."""

    positive: Ints
    negative: Ints
    weight: Floats


class Lists(NamedTuple):
    """The list `(B,)` of each row, its share in the list's target distribution `(B,)`, its weight `(B,)`; how many."""

    place: Ints
    target: Floats
    weight: Floats
    number: int


def two_classes(label: Floats, weight: Floats, groups: Ints) -> NDArray[np.bool_]:
    """Whether each row `(B,)` counts (weighs more than 0) in a group with rows of label 1 and rows of label 0."""
    positive, negative = _sides(label, weight, groups)
    place = np.unique(groups, return_inverse=True)[1]
    return ((positive > 0) & (negative > 0))[place] & (weight > 0)


def denominator(kind: Loss, label: Floats, weight: Floats, groups: Ints) -> float:
    """What the sum over these rows is divided by for a mean: the weight of all pairs, or the number of lists."""
    positive, negative = _sides(label, weight, groups)
    return float((positive * negative).sum()) if kind == "bpr" else float(np.count_nonzero(positive * negative))


def pairs_of(label: Floats, weight: Floats, groups: Ints) -> Pairs:
    """The pairs of rows `(B,)` with labels 0 or 1, weights and groups `(B,)` each."""
    positive = np.flatnonzero((label == 1) & (weight > 0))
    negative = np.flatnonzero((label == 0) & (weight > 0))
    negative = negative[np.argsort(groups[negative], kind="stable")]
    first = np.searchsorted(groups[negative], groups[positive], side="left")
    many = np.searchsorted(groups[negative], groups[positive], side="right") - first
    begins = np.repeat(first - np.cumsum(many) + many, many)
    over = negative[np.arange(int(many.sum())) + begins]
    of = np.repeat(positive, many)
    return Pairs(of, over, weight[of] * weight[over])


def lists_of(label: Floats, weight: Floats, groups: Ints) -> Lists:
    """The lists of rows `(B,)`: a row's target is softmax(label) within its list, 0 where the list has one class."""
    _, place = np.unique(groups, return_inverse=True)
    mass = np.where(two_classes(label, weight, groups), weight * np.exp(label), 0).astype(np.float64)
    total = np.bincount(place, mass)
    target = np.divide(mass, total[place], out=np.zeros_like(mass), where=mass > 0)
    return Lists(place.astype(np.int64), target.astype(np.float32), weight, len(total))


def bpr_sum(scores: Tensor, positive: Tensor, negative: Tensor, weight: Tensor) -> Tensor:
    """Σ w · −ln σ(s⁺ − s⁻) over pairs `(P,)` of the scores `(B,)` (Rendle et al., UAI 2009, section 4.1), `()`."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return (weight * F.softplus(scores.index_select(0, negative) - scores.index_select(0, positive))).sum()


def listwise_sum(scores: Tensor, place: Tensor, target: Tensor, weight: Tensor, *, number: int) -> Tensor:
    """Σ over lists of −Σ P(i) ln Q(i), P the targets and Q the softmax of the scores `(B,)` within each list, `()`.

    The top-one form of ListNet (Cao et al., ICML 2007, section 4.3).
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    counted = weight > 0
    shown = torch.where(counted, scores.detach(), -torch.inf)
    highest = torch.full((number,), -torch.inf, dtype=scores.dtype, device=scores.device)
    highest = highest.scatter_reduce(0, place, shown, reduce="amax").index_select(0, place)
    shifted = torch.where(counted, scores, 0.0) - torch.where(counted, highest, 0.0)
    masses = torch.where(counted, weight * shifted.exp(), 0.0)
    total = scores.new_zeros(number).index_add(0, place, masses)
    logs = torch.where(total > 0, total, 1.0).log().index_select(0, place)
    return (target * torch.where(counted, logs - shifted, 0.0)).sum()


def _sides(label: Floats, weight: Floats, groups: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weights of the positive and of the negative rows of each group, `(G,)` in the order of their numbers."""
    _, place = np.unique(groups, return_inverse=True)
    number = int(place.max(initial=-1)) + 1
    sides = (np.bincount(place, np.where(label == y, weight, 0), minlength=number) for y in (1, 0))
    positive, negative = (side.astype(np.float64) for side in sides)
    return positive, negative
