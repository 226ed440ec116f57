"""Layer norm and ReLU on matrices, forward and backward, for functions that differentiate themselves."""

from typing import NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


class Normed(NamedTuple):
    """What came out, `(N, C)`, and what its gradient needs beside it: mean and reciprocal deviation of each row."""

    out: Tensor
    mean: Tensor
    rstd: Tensor


def norm_relu(x: Tensor, gain: Tensor, shift: Tensor, eps: float) -> Normed:
    """`ReLU(LN(x))` of rows `(N, C)`, in the precision of `gain` `(C,)`."""
    out, mean, rstd = aten.native_layer_norm(x.to(gain.dtype), gain.shape, gain, shift, eps)
    return Normed(out.relu_(), mean, rstd)


def norm_relu_gradient(
    slope: Tensor,
    x: Tensor,
    normed: Normed,
    gain: Tensor,
    shift: Tensor,
    *,
    wanted: tuple[bool, bool, bool],
    owned: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The gradients of `x`, `gain` and `shift`, those that are `wanted`, from that of the output `(N, C)`.

    Elements that the ReLU, or a dropout behind it, made zero pass nothing. `owned`: `slope` may be overwritten.
    """
    slope = slope.to(normed.out.dtype)
    if owned:
        aten.threshold_backward.grad_input(slope, normed.out, 0, grad_input=slope)
    else:
        slope = aten.threshold_backward(slope, normed.out, 0)
    return aten.native_layer_norm_backward(
        slope.to(gain.dtype), x.to(gain.dtype), gain.shape, normed.mean, normed.rstd, gain, shift, wanted
    )
