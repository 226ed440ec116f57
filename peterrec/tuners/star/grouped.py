"""Products of groups of rows, each with a matrix of its own.

Registered as operators of torch, so that a compiled model keeps its one graph although the group sizes are data.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.library.custom_op("peterrec::grouped_linear", mutates_args=())
def grouped_linear(rows: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    """Maps rows `(N, D_in)`, ordered by group, to `(N, D_out)` by `(K, D_out, D_in)`; `counts` `(K,)` add up to N."""
    rows = rows.contiguous()
    if in_one_call(rows, *weights.shape[1:]):
        return F.grouped_mm(rows, weights.transpose(1, 2), offs=counts.cumsum(0).int())
    groups = rows.split(counts.tolist())  # on an accelerator, the host waits for the sizes
    return torch.cat([F.linear(group, weight) for group, weight in zip(groups, weights, strict=True)])


@torch.library.custom_op("peterrec::grouped_outer", mutates_args=())
def grouped_outer(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    """The sum of outer products of the rows `(N, D_out)` and `(N, D_in)` of each group, `(K, D_out, D_in)`."""
    left, right = left.contiguous(), right.contiguous()
    if in_one_call(left, left.shape[1], right.shape[1]):
        return F.grouped_mm(left.T, right, offs=counts.cumsum(0).int())
    groups = zip(left.split(sizes := counts.tolist()), right.split(sizes), strict=True)
    return torch.stack([one.T @ other for one, other in groups])


def in_one_call(rows: Tensor, *widths: int) -> bool:
    """Whether torch (from 2.10 on) multiplies groups of such rows by matrices of `widths` in one call.

    That depends on device, type and alignment (16 bytes).
    """
    if not hasattr(F, "grouped_mm") or not len(rows):
        return False
    if any(width * rows.element_size() % 16 for width in widths):
        return False
    if rows.device.type == "cuda":  # in other types torch itself waits for the sizes
        fast = torch.version.hip is None and torch.cuda.get_device_capability(rows.device) >= (8, 0)
        return fast and rows.dtype == torch.bfloat16
    return rows.device.type == "cpu" and rows.dtype in (torch.float32, torch.bfloat16)


@grouped_linear.register_fake
def _(rows: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weights.shape[1])


@grouped_outer.register_fake
def _(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    return left.new_empty(counts.shape[0], left.shape[1], right.shape[1])


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    rows, weights, counts = ctx.saved_tensors
    for_rows, for_weights, _ = ctx.needs_input_grad
    return (
        grouped_linear(grad, weights.transpose(1, 2).contiguous(), counts) if for_rows else None,
        grouped_outer(grad, rows, counts) if for_weights else None,
        None,
    )


grouped_linear.register_autograd(_backward, setup_context=_keep)
