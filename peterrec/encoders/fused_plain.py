"""A plain block as one function with a gradient of its own: few passes over memory, little kept for the backward."""

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
    residual_gradient,
    weight_gradient,
)


class PlainWeights(NamedTuple):
    """Weights `(D, kernel_size · D)` and biases of the convolutions, gains and shifts `(D,)` of the norms."""

    weight1: Tensor
    bias1: Tensor
    gain1: Tensor
    shift1: Tensor
    weight2: Tensor
    bias2: Tensor
    gain2: Tensor
    shift2: Tensor


class PlainPlan(NamedTuple):
    """What a call does beside its tensors; `mask` `(B, L, 1)` is 0 at padding, `p` the share that dropout takes."""

    taps1: Taps
    taps2: Taps
    eps1: float
    eps2: float
    mask: Tensor | None
    p: float


def _first_unit(x: Tensor, w: PlainWeights, plan: PlainPlan) -> tuple[Tensor, Tensor, Normed]:
    """The input as the products take it, what came out of the convolution, and of the norm (cleared at padding)."""
    low = product_dtype(x)
    flat = x.reshape(-1, x.shape[-1]).to(low)
    convolved = product(flat, w.weight1.to(low), w.bias1.to(low), plan.taps1)
    normed = norm_relu(convolved, w.gain1, w.shift1, plan.eps1)
    if plan.mask is not None:
        Padding(plan.mask, positions=plan.taps1.wanted).clear_(normed.out)
    return flat, convolved, normed._replace(out=normed.out.to(low))


def _second_unit(inner: Tensor, w: PlainWeights, plan: PlainPlan) -> tuple[Tensor, Normed, float]:
    """What came out of the convolution, and of norm and dropout (cleared at padding), and the dropout's scale."""
    convolved = product(inner, w.weight2.to(inner.dtype), w.bias2.to(inner.dtype), plan.taps2)
    # under autocast a norm returns its own precision, otherwise that of its input
    like = w.gain2 if torch.is_autocast_enabled(inner.device.type) else convolved
    scale = 1.0
    if plan.p and draws_words(like, plan.p):
        # ReLU(c · z) = c · ReLU(z), so that the norm scales at no cost
        scale = quick_scale(plan.p)
        normed = norm_relu(convolved, w.gain2 * scale, w.shift2 * scale, plan.eps2)
        normed = normed._replace(out=drop_quickly_(normed.out.to(like.dtype), plan.p))
    else:
        normed = norm_relu(convolved, w.gain2, w.shift2, plan.eps2)
        normed = normed._replace(out=normed.out.to(like.dtype))
        if plan.p:
            scale = 1.0 / (1.0 - plan.p) if plan.p < 1.0 else 0.0  # with all dropped no gradient passes either
            normed = normed._replace(out=torch.native_dropout(normed.out, plan.p, True)[0])
    if plan.mask is not None:
        Padding(plan.mask, positions=plan.taps2.wanted).clear_(normed.out)
    return convolved, normed, scale


class _PlainBlock(torch.autograd.Function):
    """Keeps what the trained weights and what lies below them need. Twice differentiating it is refused."""

    @staticmethod
    def forward(ctx, x: Tensor, plan: PlainPlan, *weights: Tensor) -> Tensor:  # type: ignore[override]
        w = PlainWeights(*weights)
        flat, convolved1, normed1 = _first_unit(x, w, plan)
        convolved2, normed2, ctx.scale = _second_unit(normed1.out, w, plan)
        rest = x[x.shape[0] - plan.taps2.wanted :]
        need_x, _, *need = ctx.needs_input_grad
        first = need_x or any(need[:4])  # whether anything in or below the first unit
        second = first or any(need[4:])
        ctx.plan, ctx.shape = plan, x.shape
        ctx.save_for_backward(
            *w,
            flat if need[0] else None,
            *((convolved1, normed1.mean, normed1.rstd) if first else (None,) * 3),
            normed1.out if first or need[4] else None,
            *((convolved2, *normed2) if second else (None,) * 4),
        )
        return rest + normed2.out.view(rest.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor):  # type: ignore[override]
        saved = ctx.saved_tensors
        w, (flat, convolved1, mean1, rstd1, out1, convolved2, *normed2) = PlainWeights(*saved[:8]), saved[8:]
        plan: PlainPlan = ctx.plan
        need_x, _, *need = ctx.needs_input_grad
        found: list[Tensor | None] = [None] * 8
        channels = ctx.shape[-1]
        slope = slope.reshape(-1, channels)
        first = need_x or any(need[:4])
        of_conv, found[6], found[7] = norm_relu_gradient(
            slope,
            convolved2,
            Normed(*normed2),
            w.gain2 * ctx.scale,
            w.shift2,
            wanted=(first or need[4] or need[5], need[6], need[7]),
            owned=False,
        )
        if ctx.scale != 1.0:
            found[6:] = [None if one is None else one * ctx.scale for one in found[6:]]
        if of_conv is not None:
            of_conv = of_conv.to(convolved2.dtype)
            found[4] = weight_gradient(of_conv, out1, plan.taps2).to(w.weight2.dtype) if need[4] else None
            found[5] = of_conv.sum(0).to(w.bias2.dtype) if need[5] else None
        if not first:
            return None, None, *found
        assert of_conv is not None
        of_conv, found[2], found[3] = norm_relu_gradient(
            input_gradient(of_conv, w.weight2.to(of_conv.dtype), plan.taps2),
            convolved1,
            Normed(out1, mean1, rstd1),
            w.gain1,
            w.shift1,
            wanted=(need_x or need[0] or need[1], need[2], need[3]),
            owned=True,
        )
        of_x = None
        if of_conv is not None:
            of_conv = of_conv.to(convolved1.dtype)
            found[0] = weight_gradient(of_conv, flat, plan.taps1).to(w.weight1.dtype) if need[0] else None
            found[1] = of_conv.sum(0).to(w.bias1.dtype) if need[1] else None
        if need_x:
            assert of_conv is not None
            of_x = residual_gradient(of_conv, w.weight1.to(of_conv.dtype), plan.taps1, residual=slope)
            if plan.mask is not None:
                Padding(plan.mask).clear_(of_x)
            of_x = of_x.view(ctx.shape)
        return of_x, None, *found


def fused_plain_block(x: Tensor, weights: PlainWeights, plan: PlainPlan) -> Tensor:
    """Time-major `(L, B, D)`, zero at padding, to the last positions of the block's output, zero at padding too.

    Differentiable once in `x` and the weights.
    """
    if any_needs_gradient(x, *weights):
        return _PlainBlock.apply(x, plan, *weights)  # type: ignore[no-any-return]
    added = _second_unit(_first_unit(x, weights, plan)[2].out, weights, plan)[1].out
    rest = x[x.shape[0] - plan.taps2.wanted :]
    added = added.view(rest.shape)
    return added.add_(rest) if added.dtype == rest.dtype else rest + added
