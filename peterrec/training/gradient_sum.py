"""Sums of gradients over processes: in few large messages, rows as rows."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from peterrec.training.row_gradients import RowGradient, row_gradient, set_row_gradient

BUCKET_BYTES = 2**25  # gradients of this size travel on their own, smaller ones together

NO_GRADIENT = -1
DENSE = -2


def kind_of(parameter: Tensor) -> int:
    """`NO_GRADIENT`, `DENSE`, or the number of rows of a row-sparse gradient, whose duplicates are summed first."""
    gradient = parameter.grad
    if gradient is None:
        return NO_GRADIENT
    if not gradient.is_sparse:
        return DENSE
    found = row_gradient(parameter)
    assert found is not None
    set_row_gradient(parameter, found)  # fewer travel
    return len(found.rows)


def sum_dense(parameters: Sequence[Tensor], *, loss: Tensor, group: "dist.ProcessGroup | None") -> None:
    """Sums dense gradients and `loss` `(...)` over all processes; who has no gradient adds zeros.

    Small gradients become views of what was received, so that nothing is copied back.
    """
    buckets: dict[torch.dtype, list[Tensor]] = {loss.dtype: [loss]}
    sizes = {loss.dtype: 0}
    for parameter in parameters:
        dtype, size = parameter.dtype, parameter.numel() * parameter.element_size()
        if size >= BUCKET_BYTES:
            gradient = parameter.grad
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient.contiguous()
            dist.all_reduce(parameter.grad, group=group)
            continue
        if sizes.get(dtype, 0) + size > BUCKET_BYTES:
            _sum_together(buckets.pop(dtype), loss, group)
            sizes[dtype] = 0
        buckets.setdefault(dtype, []).append(parameter)
        sizes[dtype] = sizes.get(dtype, 0) + size
    for bucket in buckets.values():
        _sum_together(bucket, loss, group)


def _sum_together(bucket: Sequence[Tensor], loss: Tensor, group: "dist.ProcessGroup | None") -> None:
    """One message: gradients of parameters of one type, and the loss where it is among them."""
    flat = torch.cat([_sent(each, is_loss=each is loss) for each in bucket])
    dist.all_reduce(flat, group=group)
    for each, part in zip(bucket, flat.split([each.numel() for each in bucket]), strict=True):
        if each is loss:
            loss.copy_(part.view(loss.shape))
        else:
            each.grad = part.view(each.shape)


def _sent(each: Tensor, *, is_loss: bool) -> Tensor:
    if is_loss:
        return each.detach().reshape(-1)
    return each.new_zeros(each.numel()) if each.grad is None else each.grad.reshape(-1)


def sum_rows(parameter: Tensor, *, counts: Sequence[int], group: "dist.ProcessGroup | None") -> None:
    """Sums a row-sparse gradient `(V, D)` over all processes, each of which sends `counts` rows.

    What is left is all their rows one after the other, in all processes in the same order, so that whoever adds up the
    duplicates gets the same bits.
    """
    most, gradient = max(counts), parameter.grad
    rows = torch.zeros(most, dtype=torch.int64, device=parameter.device)
    values = parameter.new_zeros(most, *parameter.shape[1:])
    if gradient is not None:
        assert gradient.is_sparse, "a gradient is dense in one process and row-sparse in another"
        rows[: gradient._nnz()] = gradient._indices()[0]
        values[: gradient._nnz()] = gradient._values()
    all_rows = [torch.empty_like(rows) for _ in counts]
    all_values = [torch.empty_like(values) for _ in counts]
    dist.all_gather(all_rows, rows, group=group)
    dist.all_gather(all_values, values, group=group)
    found = RowGradient(
        torch.cat([each[:count] for each, count in zip(all_rows, counts, strict=True)]),
        torch.cat([each[:count] for each, count in zip(all_values, counts, strict=True)]),
    )
    set_row_gradient(parameter, found)
