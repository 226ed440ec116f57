"""Exact softmax cross-entropy over the whole catalogue, without ever holding all logits."""

import torch
from torch import Tensor

CHUNK_ELEMENTS = {"cpu": 2**25, "cuda": 2**26}  # logits of a chunk of rows
FEWEST_ROWS = 64  # fewer would read and write the table's gradient too often
MOST_ROWS = {"cpu": 512}  # more make the blocks narrow and gain nothing
BLOCK_ELEMENTS = {"cpu": 2**19}  # logits of a block of classes: they stay in cache between product and softmax


class _ExactSoftmax(torch.autograd.Function):
    """Computes loss and gradients in one pass over chunks of rows, so that nothing `(N, V)` is kept.

    The classes of a chunk come in blocks, each with a softmax of its own while its logits are in cache. When the
    normalisers of all blocks are known, one factor a row and block makes them probabilities among all classes, on
    their way into the products of the gradients. So each logit is exponentiated once.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, hidden: Tensor, table: Tensor, targets: Tensor, first_row: int, chunk: int, width: int, keep: bool
    ) -> Tensor:
        need_hidden, need_table = (keep and needed for needed in ctx.needs_input_grad[:2])
        keep = need_hidden or need_table
        classes = table[first_row:].to(hidden.dtype)
        labels = (targets - first_row).unsqueeze(1)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_table = torch.zeros_like(table) if need_table else None
        precise = torch.promote_types(hidden.dtype, torch.float32)
        most = min(chunk, len(hidden))
        scratch = hidden.new_empty(most * min(width, len(classes)), dtype=precise)
        room = hidden.new_empty(most * len(classes), dtype=precise) if keep else torch.empty_like(scratch)
        total = torch.zeros((), dtype=precise, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows, wanted = hidden[start : start + chunk], labels[start : start + chunk]
            sums = []
            own = torch.zeros_like(wanted, dtype=precise)
            for first, block in _blocks(classes, width):
                logits = _view(scratch, len(rows), 0, len(block))
                _product(rows, block.t(), out=logits)
                place, inside = _place(wanted, first, len(block))
                own += logits.gather(1, place) * inside
                shares = torch.softmax(logits, dim=1, out=_view(room, len(rows), first if keep else 0, len(block)))
                # the largest share is 1 / Σ exp(logit − largest logit)
                sums.append(logits.amax(dim=1, keepdim=True) - shares.amax(dim=1, keepdim=True).log())
            log_sums = torch.cat(sums, dim=1)
            log_sum = torch.logsumexp(log_sums, dim=1, keepdim=True)
            total += (log_sum - own).sum()
            if not keep:
                continue
            factors = (log_sums - log_sum).exp()
            row_slope = torch.zeros_like(rows, dtype=precise)
            for number, (first, block) in enumerate(_blocks(classes, width)):
                slope = _view(room, len(rows), first, len(block)).mul_(factors[:, number : number + 1])
                place, inside = _place(wanted, first, len(block))
                slope.scatter_add_(1, place, inside.to(precise).neg_())  # softmax, minus one at the target
                low = slope.to(hidden.dtype)
                if grad_hidden is not None:
                    _add_product(row_slope, low, block)
                if grad_table is not None:
                    begin = first_row + first
                    _add_product(grad_table[begin : begin + len(block)], low.t(), rows)
            if grad_hidden is not None:
                grad_hidden[start : start + chunk] = row_slope
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
            *(None,) * 5,
        )


def _blocks(classes: Tensor, width: int) -> list[tuple[int, Tensor]]:
    """The first class of each block, and the block `(≤ width, D)`."""
    return [(first, classes[first : first + width]) for first in range(0, len(classes), width)]


def _view(room: Tensor, rows: int, first: int, width: int) -> Tensor:
    """The part of `room` that belongs to a block of classes, as `(rows, width)`, contiguous."""
    return room[rows * first : rows * (first + width)].view(rows, width)


def _place(labels: Tensor, first: int, width: int) -> tuple[Tensor, Tensor]:
    """Where in a block each row's label `(B, 1)` stands (anywhere if it does not), and whether it does."""
    place = labels - first
    return place.clamp(0, width - 1), (place >= 0) & (place < width)


def _product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += (left @ right).to(total.dtype)


def exact_softmax_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    first_row: int = 3,
    chunk: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` under the softmax of `hidden` `(N, D)` · `table` `(V, D)`ᵀ.

    Rows of `table` before `first_row` (the special rows) are no candidates. Gradients are computed in the
    forward pass, `chunk` rows at a time and in these `width` classes; memory beside the gradients is
    `chunk · (V + width)` numbers (`chunk · 2 width` where no gradient is wanted). Under autocast the products run in
    the lower precision and the softmax in float32. Zero rows give a loss of zero.
    """
    device = hidden.device.type
    if chunk is None:
        fitting = CHUNK_ELEMENTS.get(device, 2**24) // max(len(table), 1)
        chunk = max(FEWEST_ROWS, min(fitting, MOST_ROWS.get(device, fitting)))
    if width is None:
        width = BLOCK_ELEMENTS[device] // chunk if device in BLOCK_ELEMENTS else len(table)
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    keep = torch.is_grad_enabled()  # inside of the function it never is
    return _ExactSoftmax.apply(hidden, table, targets, first_row, chunk, max(width, 1), keep)  # type: ignore[no-any-return]
