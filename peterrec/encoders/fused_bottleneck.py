"""A bottleneck block as one function with a gradient of its own."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from peterrec.encoders.bare import any_needs_gradient
from peterrec.encoders.dropout import draws_words, drop_quickly_, quick_scale
from peterrec.encoders.norm_relu import Normed, norm_relu, norm_relu_gradient
from peterrec.encoders.padding import Padding
from peterrec.encoders.shifted_products import (
    Taps,
    input_gradient,
    product,
    product_dtype,
    taps_of,
    weight_gradient,
)


class BottleneckWeights(NamedTuple):
    """Gain and shift of each unit's norm, weight and bias of its linear map; the second map is the convolution."""

    gain1: Tensor
    shift1: Tensor
    weight1: Tensor
    bias1: Tensor
    gain2: Tensor
    shift2: Tensor
    weight2: Tensor
    bias2: Tensor
    gain3: Tensor
    shift3: Tensor
    weight3: Tensor
    bias3: Tensor


class BottleneckPlan(NamedTuple):
    """What a call does beside its tensors; `mask` `(B, L, 1)` is 0 at padding, `p` the share that dropout takes."""

    taps: Taps
    eps: tuple[float, float, float]
    mask: Tensor | None
    p: float


class _Unit(NamedTuple):
    """Norm, ReLU and a linear map with these taps; what it read, and where its first weight stands among all."""

    x: Tensor
    normed: Normed
    taps: Taps
    place: int


def _pointwise(positions: int) -> Taps:
    return taps_of(kernel_size=1, dilation=1, causal=True, length=positions)


def _unit(x: Tensor, weights: tuple[Tensor, ...], place: int, taps: Taps, plan: BottleneckPlan) -> tuple[_Unit, Tensor]:
    """A unit, and what came out of it. In front of the convolution the padding is cleared."""
    gain, shift, weight, bias = weights[place : place + 4]
    normed = norm_relu(x, gain, shift, plan.eps[place // 4])
    if plan.mask is not None and taps.kernel_size > 1:
        Padding(plan.mask, positions=taps.length).clear_(normed.out)
    low = product_dtype(x)
    normed = normed._replace(out=normed.out.to(low))
    return _Unit(x, normed, taps, place), product(normed.out, weight.to(low), bias.to(low), taps)


def _drop(y: Tensor, p: float) -> tuple[Tensor, Tensor | None]:
    """Dropout, in place where it can be, and the factor of each element."""
    if not p:
        return y, None
    if draws_words(y, p):
        factor = drop_quickly_(torch.full_like(y, quick_scale(p)), p)
    else:
        factor = torch.native_dropout(torch.ones_like(y), p, True)[0]
    return y.mul_(factor), factor


def _units(x: Tensor, weights: tuple[Tensor, ...], plan: BottleneckPlan) -> tuple[list[_Unit], Tensor, Tensor | None]:
    """The three units, what the block adds to its input `(wanted · B, D)`, and the factors of its dropout."""
    y = x.reshape(-1, x.shape[-1])
    units = []
    for place, taps in ((0, _pointwise(plan.taps.length)), (4, plan.taps), (8, _pointwise(plan.taps.wanted))):
        unit, y = _unit(y, weights, place, taps, plan)
        units.append(unit)
    y, factor = _drop(y, plan.p)
    if plan.mask is not None:
        Padding(plan.mask, positions=plan.taps.wanted).clear_(y)
    return units, y, factor


class _BottleneckBlock(torch.autograd.Function):
    """Keeps what the trained weights and what lies below them need. Twice differentiating it is refused."""

    @staticmethod
    def forward(ctx, x: Tensor, plan: BottleneckPlan, *weights: Tensor) -> Tensor:  # type: ignore[override]
        units, y, factor = _units(x, weights, plan)
        need_x, _, *need = ctx.needs_input_grad
        kept: list[Tensor | None] = []
        for unit in units:
            below = need_x or any(need[: unit.place])  # something that trains reads this unit's gradient
            norm = below or any(need[unit.place : unit.place + 2])
            out = unit.normed.out if norm or need[unit.place + 2] else None
            kept += [out, *((unit.x, unit.normed.mean, unit.normed.rstd) if norm else (None,) * 3)]
        ctx.plan, ctx.shape, ctx.low = plan, x.shape, y.dtype
        ctx.save_for_backward(*weights, factor, *kept)
        rest = x[x.shape[0] - plan.taps.wanted :]
        return rest + y.view(rest.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor):  # type: ignore[override]
        saved = ctx.saved_tensors  # asked for once: a checkpoint hands each out a single time
        weights, factor, kept = saved[:12], saved[12], saved[13:]
        plan: BottleneckPlan = ctx.plan
        need_x, _, *need = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * 12
        slope = slope.reshape(-1, ctx.shape[-1])
        of_y = slope if plan.mask is None else Padding(plan.mask, positions=plan.taps.wanted).clear_(slope.clone())
        of_y = of_y.to(ctx.low) if factor is None else of_y.to(ctx.low) * factor
        for place, taps in ((8, _pointwise(plan.taps.wanted)), (4, plan.taps), (0, _pointwise(plan.taps.length))):
            gain, shift, weight, bias = weights[place : place + 4]
            out, x, mean, rstd = kept[place : place + 4]
            if need[place + 2]:
                found[place + 2] = weight_gradient(of_y, out, taps).to(weight.dtype)
            if need[place + 3]:
                found[place + 3] = of_y.sum(0).to(bias.dtype)
            if x is None:
                return None, None, *found
            below, found[place], found[place + 1] = norm_relu_gradient(
                input_gradient(of_y, weight.to(of_y.dtype), taps),
                x,
                Normed(out, mean, rstd),
                gain,
                shift,
                wanted=(need_x or any(need[:place]), need[place], need[place + 1]),
                owned=True,
            )
            if below is None:
                return None, None, *found
            of_y = below.to(x.dtype)
        of_y[len(of_y) - len(slope) :] += slope
        if plan.mask is not None:
            Padding(plan.mask).clear_(of_y)
        return of_y.view(ctx.shape), None, *found


def fused_bottleneck_block(x: Tensor, weights: BottleneckWeights, plan: BottleneckPlan) -> Tensor:
    """Time-major `(L, B, D)`, zero at padding, to the last positions of the block's output, zero at padding too.

    Differentiable once in `x` and the weights.
    """
    if any_needs_gradient(x, *weights):
        return _BottleneckBlock.apply(x, plan, *weights)  # type: ignore[no-any-return]
    _, y, _ = _units(x, weights, plan)
    rest = x[x.shape[0] - plan.taps.wanted :]
    y = y.view(rest.shape)
    return y.add_(rest) if y.dtype == rest.dtype else rest + y
