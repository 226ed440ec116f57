"""Losses of single rows, and their sums over the rows that count."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.errors import DataError
from peterrec.objective_recipe import Loss
from peterrec.objectives.log_probability import LogProbability, of_logit


def row_losses(kind: Loss, prediction: Tensor | LogProbability, label: Tensor) -> Tensor:
    """The loss of each row `(B,)`, in float32 at least; 0, without a gradient, where the label `(B,)` is NaN.

    `bce` is -[y log p + (1 - y) log(1 - p)] of a logit `(B,)` or a probability; `mse` the squared difference of a value
    `(B,)` from the label, `log_mse` from log(1 + label): `in_label_units` leads back from there.
    """
    known = ~torch.isnan(label)
    label = torch.where(known, label, 0.0)
    if kind == "bce":
        found = prediction if isinstance(prediction, LogProbability) else of_logit(prediction)
        losses = -(label * found.log_p + (1 - label) * found.log_not_p)
    else:
        assert isinstance(prediction, Tensor), f"{kind} is a loss of values"
        target = torch.log1p(label) if kind == "log_mse" else label
        losses = (prediction.to(torch.promote_types(prediction.dtype, torch.float32)) - target).square()
    return torch.where(known, losses, 0.0)


def masked_sum(losses: Tensor, mask: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The sum of weight × loss over the rows of `mask` `(B,)`, and the sum of their weights; both `()`.

    `mask` holds the rows that are in the objective's space and whose label is known. What the other rows hold in
    `losses` or `weights` `(B,)`, be it NaN, reaches neither sum nor gradient; without rows both sums are 0, and so are
    the gradients. Their quotient is the mean: the caller adds both up over the parts of a step first, and keeps away
    from 0 / 0.
    """
    counted = mask.to(losses.dtype) if weights is None else torch.where(mask, weights.to(losses.dtype), 0.0)
    return (torch.where(mask, losses, 0.0) * counted).sum(), counted.sum()


def in_label_units(kind: Loss, value: Tensor) -> Tensor:
    """What a value `(B,)` that was learned by this loss says about the label: itself, after `log_mse` exp(value) - 1.

    The mean of logarithms leads back to a median, not to the mean, which is larger.
    """
    return torch.expm1(value) if kind == "log_mse" else value


def check_labels(kind: Loss, labels: NDArray[np.floating], *, name: str) -> None:
    """Raises DataError, naming label, value and row, if a label `(N,)` is none that this loss can learn; NaN may be."""
    if kind == "mse":
        bad, needs = np.isinf(labels), "a finite number"
    elif kind in ("bpr", "listwise"):
        bad, needs = ~np.isnan(labels) & (labels != 0) & (labels != 1), "0 or 1"
    elif kind == "bce":
        bad, needs = (labels < 0) | (labels > 1), "a number from 0 to 1"
    else:
        bad, needs = (labels <= -1) | np.isinf(labels), "a finite number above -1, since it learns log(1 + label)"
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"label {name!r} is {labels[row]:g} in row {row + 1:,} ({int(bad.sum()):,} such rows); loss = {kind!r} "
            f"needs {needs}. Choose another loss, or prepare the label otherwise."
        )
