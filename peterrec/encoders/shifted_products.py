"""A dilated convolution as matrix products on contiguous slices of time-major memory.

In `(L, B, D)` memory the input at t − k, for all users and all t at once, is a slice that begins k · B rows earlier. So
each tap is one product of a slice of the input with its columns of the weight, added to a slice of the output:
nothing is padded, gathered or transposed, and what would read outside the sequence is left out of the work. A map
of each position by itself is the case of one tap.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Tap(NamedTuple):
    """`positions` outputs from `first` on read the inputs from `start` on through tap `number`."""

    number: int
    first: int
    start: int
    positions: int


class Taps(NamedTuple):
    """The taps of a convolution over `length` positions of which the last `wanted` are computed; the one that reaches
    every output comes first. Taps that read nothing are left out."""

    kernel_size: int
    length: int
    wanted: int
    own: tuple[Tap, ...]


def taps_of(*, kernel_size: int, dilation: int, causal: bool, length: int, positions: int | None = None) -> Taps:
    """The taps of a causal or a centred convolution, oldest first in the weight, for the last `positions` outputs."""
    wanted = length if positions is None else min(positions, length)
    center = kernel_size - 1 if causal else kernel_size // 2
    found = []
    for number in range(kernel_size):
        start = length - wanted + (number - center) * dilation
        first, stop = max(0, -start), min(wanted, length - start)
        if number == center or stop > first:
            found.append(Tap(number, first, start + first, stop - first))
    found.sort(key=lambda tap: tap.number != center)
    return Taps(kernel_size, length, wanted, tuple(found))


def product(x: Tensor, weight: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """Flat time-major input `(L · B, D_in)` to output `(wanted · B, D_out)`.

    `weight` is `(D_out, kernel_size · D_in)`, `bias` `(D_out,)`.
    """
    users = len(x) // max(taps.length, 1)
    y = x.new_empty(taps.wanted * users, len(weight))
    for order, tap in enumerate(taps.own):
        source, target = _slices(tap, users)
        columns = _columns(weight, tap, taps).t()
        if order == 0:
            torch.addmm(bias, x[source], columns, out=y)
        else:
            y[target].addmm_(x[source], columns)
    return y


def input_gradient(slope: Tensor, weight: Tensor, taps: Taps, *, onto: Tensor | None = None) -> Tensor:
    """The gradient `(L · B, D_in)` of the input from that of the output `(wanted · B, D_out)`.

    It is added to `onto` in place where that is given.
    """
    users = len(slope) // max(taps.wanted, 1)
    whole = onto is None and taps.own[0].positions == taps.length
    if onto is None:
        shape = (taps.length * users, weight.shape[1] // taps.kernel_size)
        onto = slope.new_empty(shape) if whole else slope.new_zeros(shape)
    for order, tap in enumerate(taps.own):
        source, target = _slices(tap, users)
        columns = _columns(weight, tap, taps)
        if order == 0 and whole:
            torch.mm(slope, columns, out=onto)
        else:
            onto[source].addmm_(slope[target], columns)
    return onto


def residual_gradient(slope: Tensor, weight: Tensor, taps: Taps, *, residual: Tensor) -> Tensor:
    """`input_gradient` plus `residual`, the gradient `(n · B, D_in)` of the last rows of the input by another way."""
    rows = taps.length * (len(slope) // max(taps.wanted, 1))
    if len(residual) == rows:
        whole = residual.clone()
    else:
        whole = residual.new_zeros(rows, residual.shape[1])
        whole[rows - len(residual) :] = residual
    if whole.dtype == slope.dtype:
        return input_gradient(slope, weight, taps, onto=whole)
    return whole.add_(input_gradient(slope, weight, taps))


def weight_gradient(slope: Tensor, x: Tensor, taps: Taps) -> Tensor:
    """The gradient `(D_out, kernel_size · D_in)` of the weight."""
    users = len(slope) // max(taps.wanted, 1)
    shape = (slope.shape[1], taps.kernel_size * x.shape[1])
    gradient = slope.new_empty(shape) if len(taps.own) == taps.kernel_size else slope.new_zeros(shape)
    for tap in taps.own:
        source, target = _slices(tap, users)
        torch.mm(slope[target].t(), x[source], out=_columns(gradient, tap, taps))
    return gradient


def _slices(tap: Tap, users: int) -> tuple[slice, slice]:
    """The rows of the input and of the output that a tap connects."""
    source = slice(tap.start * users, (tap.start + tap.positions) * users)
    return source, slice(tap.first * users, (tap.first + tap.positions) * users)


def _columns(weight: Tensor, tap: Tap, taps: Taps) -> Tensor:
    """The columns `(D_out, D_in)` of a tap, a view; matrix products take its leading dimension as it is."""
    width = weight.shape[1] // taps.kernel_size
    return weight[:, tap.number * width : (tap.number + 1) * width]


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of `x` are computed in: autocast's choice where it is on, else the tensor's own."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return x.dtype


class _ShiftedProducts(torch.autograd.Function):
    """The convolution alone, for blocks in which something else is wrapped. Twice differentiating it is refused."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, taps: Taps) -> Tensor:  # type: ignore[override]
        low = product_dtype(x)
        flat = x.reshape(-1, x.shape[-1]).to(low)
        ctx.save_for_backward(flat if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        ctx.taps = taps
        ctx.shape = x.shape
        ctx.dtypes = x.dtype, weight.dtype, bias.dtype
        return product(flat, weight.to(low), bias.to(low), taps).view(taps.wanted, x.shape[1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor):  # type: ignore[override]
        flat, weight = ctx.saved_tensors
        taps: Taps = ctx.taps
        slope = slope.reshape(-1, slope.shape[-1])
        of_x = of_weight = of_bias = None
        if weight is not None:
            of_x = input_gradient(slope, weight.to(slope.dtype), taps).to(ctx.dtypes[0]).view(ctx.shape)
        if flat is not None:
            of_weight = weight_gradient(slope, flat, taps).to(ctx.dtypes[1])
        if ctx.needs_input_grad[2]:
            of_bias = slope.sum(0).to(ctx.dtypes[2])
        return of_x, of_weight, of_bias, None


def shifted_products(x: Tensor, weight: Tensor, bias: Tensor, taps: Taps) -> Tensor:
    """Time-major `(L, B, D_in)` to `(wanted, B, D_out)`, differentiable once in `x`, `weight` and `bias`."""
    return _ShiftedProducts.apply(x, weight, bias, taps)  # type: ignore[no-any-return]
