"""Updates of the rows of a table that a step touched; all others keep their bytes, state included."""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from peterrec.training.row_gradients import RowGradient

ADAGRAD_RATE = 30  # times the learning rate: its steps shrink from the first one on, while Adam's keep their length


class RowUpdate(Protocol):
    """An update of some rows of a table `(V, D)`; nothing in it grows with V but the state, made once."""

    def start(self, table: Tensor) -> dict[str, Tensor]:
        """The state of a table before its first step."""
        ...

    def apply(
        self, table: Tensor, state: dict[str, Tensor], gradient: RowGradient, *, rate: float, live: Tensor | None
    ) -> None:
        """One step with the learning rate `rate`; where the flag `live` `()` on the device is False, none."""
        ...


class LazyAdam:
    """Adam (Kingma & Ba, 2015) of the touched rows: a row's moments stand still while no step touches it.

    Another update than dense Adam: there the moments of an untouched row decay and its momentum goes on moving it.
    Where every step touches all rows, the two are the same. The bias of the moments is corrected by the steps that the
    table has seen. So the first steps of a row that comes late are a few times longer than `rate`, which makes up for
    the momentum that it does not get afterwards; a correction by the row's own count learns rare rows markedly worse.
    No weight decay.
    """

    def __init__(self, *, betas: tuple[float, float], eps: float = 1e-8) -> None:
        self._betas = betas
        self._eps = eps

    def start(self, table: Tensor) -> dict[str, Tensor]:
        """Two moments `(V, D)` and the number of steps `()`, which stays on the CPU."""
        dtype = _precise(table)  # the keys are not AdamW's, which shall not go on from these moments
        return {
            "step": torch.zeros((), dtype=torch.int64),
            "lazy_exp_avg": torch.zeros_like(table, dtype=dtype),
            "lazy_exp_avg_sq": torch.zeros_like(table, dtype=dtype),
        }

    def apply(
        self, table: Tensor, state: dict[str, Tensor], gradient: RowGradient, *, rate: float, live: Tensor | None
    ) -> None:
        """Gathers, updates and puts back the rows of `gradient`."""
        rows, (forget, forget_square) = gradient.rows, self._betas
        mean, square = state["lazy_exp_avg"], state["lazy_exp_avg_sq"]
        values = gradient.values.to(mean.dtype)
        means = F.embedding(rows, mean).lerp_(values, 1 - forget)
        squares = F.embedding(rows, square).mul_(forget_square).addcmul_(values, values, value=1 - forget_square)
        _put(mean, rows, means, live)
        _put(square, rows, squares, live)
        step = int(state["step"].add_(1))
        # m / (1 − β₁ᵗ) over √(v / (1 − β₂ᵗ)) + ε, with the corrections in the two numbers
        spread = math.sqrt(1 - forget_square**step)
        length = rate * spread / (1 - forget**step)
        moved = F.embedding(rows, table).addcdiv(means, squares.sqrt_().add_(self._eps * spread), value=-length)
        _put(table, rows, moved.to(table.dtype), live)


class RowwiseAdagrad:
    """Adagrad (Duchi et al., 2011) with one accumulator a row: the running sum of its mean squared gradient.

    As in large recommenders (Mudigere et al., Software-Hardware Co-design for Fast and Scalable Training of Deep
    Learning Recommendation Models, 2022). Another update than Adam, with 2 · D times less state; its rate is
    `ADAGRAD_RATE` times that of the other weights. No weight decay.
    """

    def __init__(self, *, eps: float = 1e-10) -> None:
        self._eps = eps

    def start(self, table: Tensor) -> dict[str, Tensor]:
        """The accumulators `(V, 1)`."""
        return {"sum": torch.zeros(len(table), 1, dtype=_precise(table), device=table.device)}

    def apply(
        self, table: Tensor, state: dict[str, Tensor], gradient: RowGradient, *, rate: float, live: Tensor | None
    ) -> None:
        """Gathers, updates and puts back the rows of `gradient`."""
        rows, total = gradient.rows, state["sum"]
        values = gradient.values.to(total.dtype)
        mean_square = torch.linalg.vector_norm(values, dim=1, keepdim=True).square_().div_(values.shape[1])
        sums = mean_square.add_(total.index_select(0, rows))
        _put(total, rows, sums, live)
        scale = sums.sqrt_().add_(self._eps).reciprocal_().mul_(-ADAGRAD_RATE * rate)
        _put(table, rows, torch.addcmul(F.embedding(rows, table), values, scale).to(table.dtype), live)


def _precise(table: Tensor) -> torch.dtype:
    return torch.promote_types(table.dtype, torch.float32)


def _put(target: Tensor, rows: Tensor, new: Tensor, live: Tensor | None) -> None:
    """Writes rows; a row that comes twice gets the same values each time."""
    if live is not None:
        new = torch.where(live, new, target.index_select(0, rows))
    target.index_copy_(0, rows, new)
