"""Exact softmax cross-entropy over the whole catalogue, without ever holding all logits."""

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}  # logits held at once; on a CPU a chunk then stays in cache


class _ExactSoftmax(torch.autograd.Function):
    """Computes loss and gradients in one pass over chunks of rows, so that nothing `(N, V)` is kept."""

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, targets: Tensor, first_row: int, chunk: int) -> Tensor:  # type: ignore[override]
        need_hidden, need_table = ctx.needs_input_grad[:2]
        classes = table[first_row:].to(hidden.dtype)
        labels = targets - first_row
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_table = torch.zeros_like(table) if need_table else None
        precise = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=precise, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows = hidden[start : start + chunk]
            wanted = labels[start : start + chunk].unsqueeze(1)
            logits = rows @ classes.t()
            logits = logits.to(precise)
            log_sum = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (log_sum - logits.gather(1, wanted)).sum()
            if grad_hidden is None and grad_table is None:
                continue
            slope = logits.sub_(log_sum).exp_()  # softmax, then minus one at the target
            slope.scatter_add_(1, wanted, slope.new_full(wanted.shape, -1.0))
            slope = slope.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(slope, classes, out=grad_hidden[start : start + chunk])
            if grad_table is not None:
                if grad_table.dtype == slope.dtype:
                    grad_table[first_row:].addmm_(slope.t(), rows)
                else:
                    grad_table[first_row:] += (slope.t() @ rows).to(grad_table.dtype)
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.count = max(len(hidden), 1)
        return total / ctx.count

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        scale = grad_output / ctx.count
        grad_hidden, grad_table = ctx.saved_tensors
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_table is None else grad_table * scale.to(grad_table.dtype),
            None,
            None,
            None,
        )


def exact_softmax_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, *, first_row: int = 3, chunk: int | None = None
) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` under the softmax of `hidden` `(N, D)` · `table` `(V, D)`ᵀ.

    Rows of `table` before `first_row` (the special rows) are no candidates. Gradients are computed in the
    forward pass, `chunk` rows at a time; memory beside the gradients is `chunk · V` numbers. Under autocast the
    products run in the lower precision and the softmax in float32. Zero rows give a loss of zero.
    """
    if chunk is None:
        chunk = max(16, CHUNK_ELEMENTS.get(hidden.device.type, 2**24) // max(len(table), 1))
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    return _ExactSoftmax.apply(hidden, table, targets, first_row, chunk)  # type: ignore[no-any-return]
