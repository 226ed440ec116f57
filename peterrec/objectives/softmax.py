"""Exact softmax cross-entropy over the whole catalogue, without ever holding all logits."""

import torch
from torch import Tensor

from peterrec.data.vocabulary import FIRST_ITEM

# On a processor the logits of a chunk stay in cache from product to product. A catalogue too large for that comes in
# blocks, whose logits do so between product and softmax.
WHOLE_ELEMENTS = 2**20
WHOLE_CLASSES = 2**14
WHOLE_ROWS = 128  # more gain little alone, and lose where others use the cache too
BLOCK_CLASSES = 2**12
BLOCK_ROWS = 128  # more take memory and gain nothing
FEWEST_ROWS = 64  # fewer would read and write the table's gradient too often
CHUNK_ELEMENTS = {"cpu": 2**25}  # what the logits of a chunk may take, unless its rows are the fewest
ACCELERATOR_ELEMENTS = 2**26


class _ExactSoftmax(torch.autograd.Function):
    """Computes loss and gradients in one pass over chunks of rows, so that nothing `(N, V)` is kept.

    The classes of a chunk come in one or several blocks, each with a softmax of its own, which also gives the log of
    its normaliser. Shares within a block become probabilities among all classes by one factor a row and block, which
    is applied to the small side of each product: no logit is touched again for it.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx, hidden: Tensor, table: Tensor, targets: Tensor, first_row: int, chunk: int, width: int, keep: bool
    ) -> Tensor:
        need_hidden, need_table = (keep and needed for needed in ctx.needs_input_grad[:2])
        precise = torch.promote_types(hidden.dtype, torch.float32)
        classes = table[first_row:].to(hidden.dtype)
        blocks = [(first, classes[first : first + width]) for first in range(0, len(classes), width)]
        whole = len(blocks) == 1
        real = (targets >= first_row).unsqueeze(1)
        labels = (targets - first_row).clamp(min=0).unsqueeze(1)
        weights = real.to(hidden.dtype)
        weighted = hidden * weights if need_table else hidden
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_table = torch.zeros_like(table) if need_table else None
        most = min(chunk, len(hidden))
        keep = need_hidden or need_table
        room = hidden.new_empty(most * (len(classes) if keep else min(width, len(classes))))
        # in a lower precision, the softmax has a place of its own
        scratch = room if hidden.dtype == precise else hidden.new_empty(most * min(width, len(classes)), dtype=precise)
        total = torch.zeros((), dtype=precise, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            rows, wanted = hidden[start : start + chunk], labels[start : start + chunk]
            own = torch.zeros_like(wanted, dtype=precise)
            logs, kept, slopes = [], [], []
            for first, block in blocks:
                place = _view(room, len(rows), first if keep else 0, len(block))
                shares = place if scratch is room else _view(scratch, len(rows), 0, len(block))
                product(rows, block.t(), out=shares)
                column = wanted - first
                inside = (column >= 0) & (column < len(block))
                own += shares.gather(1, column.clamp(0, len(block) - 1)) * inside
                logs.append(softmax_(shares))
                if not keep:
                    continue
                if whole:  # the slope: softmax, minus one at the target
                    shares.scatter_add_(1, wanted, torch.full_like(own, -1))
                if shares is not place:
                    place.copy_(shares)
                kept.append(place)
                if grad_hidden is not None:
                    out = grad_hidden[start : start + chunk] if whole else None
                    slopes.append(torch.mm(place, block, out=out))
            log_sums = torch.cat(logs, dim=1)
            log_sum = log_sums if whole else torch.logsumexp(log_sums, dim=1, keepdim=True)
            total += ((log_sum - own) * real[start : start + chunk]).sum()
            factors = (log_sums - log_sum).exp()
            if grad_hidden is not None and not whole:
                slope = torch.zeros_like(rows, dtype=precise)
                for number, part in enumerate(slopes):
                    slope.addcmul_(part.to(precise), factors[:, number : number + 1])
                grad_hidden[start : start + chunk] = slope
            if grad_table is not None:
                scaled = weighted[start : start + chunk]
                for number, ((first, block), shares) in enumerate(zip(blocks, kept, strict=True)):
                    some = scaled if whole else (scaled * factors[:, number : number + 1]).to(hidden.dtype)
                    begin = first_row + first
                    add_product(grad_table[begin : begin + len(block)], shares.t(), some)
        if not whole:  # the targets' minus one, past the factors
            if grad_hidden is not None:
                grad_hidden -= classes.index_select(0, labels[:, 0])
            if grad_table is not None:
                grad_table.index_add_(0, labels[:, 0] + first_row, weighted.to(table.dtype), alpha=-1)
        if grad_hidden is not None:
            grad_hidden *= weights
        count = real.sum().clamp(min=1)
        ctx.save_for_backward(grad_hidden, grad_table, count)
        return total / count

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        *gradients, count = ctx.saved_tensors
        scale = grad_output / count
        return *(None if g is None else g * scale.to(g.dtype) for g in gradients), *(None,) * 5


def softmax_(logits: Tensor) -> Tensor:
    """Turns `logits` `(N, C)` into their softmax in place; returns the logs of the normalisers `(N, 1)`."""
    largest = logits.amax(dim=1, keepdim=True)
    torch.softmax(logits, dim=1, out=logits)
    # the largest share is 1 / Σ exp(logit − largest logit)
    return largest - logits.amax(dim=1, keepdim=True).log()


def _view(room: Tensor, rows: int, first: int, width: int) -> Tensor:
    """The part of `room` that belongs to a block of classes, as `(rows, width)`, contiguous."""
    return room[rows * first : rows * (first + width)].view(rows, width)


def product(left: Tensor, right: Tensor, *, out: Tensor) -> None:
    """`left` · `right` into `out`, which may be of a higher precision."""
    if out.dtype == left.dtype:
        torch.mm(left, right, out=out)
    else:
        out.copy_(left @ right)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds `left` · `right` to `total`, which may be of a higher precision."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += (left @ right).to(total.dtype)


def exact_softmax_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    first_row: int = FIRST_ITEM,
    chunk: int | None = None,
    width: int | None = None,
) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` under the softmax of `hidden` `(N, D)` · `table` `(V, D)`ᵀ.

    Rows of `table` before `first_row` (the special rows) are no candidates, and targets among them are none: their
    rows do not count. Gradients are computed in the forward pass, `chunk` rows at a time and in these `width` classes;
    memory beside the gradients is `chunk · V` numbers (`chunk · width` where no gradient is wanted). Under autocast
    the products run in the lower precision and the softmax in float32. No targets give a loss of zero.
    """
    device = hidden.device.type
    if chunk is None or width is None:
        rows, classes = extent(len(table) - first_row, device=device)
        chunk = rows if chunk is None else chunk
        width = classes if width is None else width
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    keep = torch.is_grad_enabled()  # inside of the function it never is
    return _ExactSoftmax.apply(hidden, table, targets, first_row, chunk, max(width, 1), keep)  # type: ignore[no-any-return]


def extent(classes: int, *, device: str) -> tuple[int, int]:
    """How many rows of so many classes make a chunk on a `device`, and how many classes a block."""
    classes = max(classes, 1)
    if device != "cpu":
        return max(ACCELERATOR_ELEMENTS // classes, FEWEST_ROWS), classes
    if classes <= WHOLE_CLASSES:
        return min(WHOLE_ELEMENTS // classes, WHOLE_ROWS), classes
    return min(max(CHUNK_ELEMENTS["cpu"] // classes, FEWEST_ROWS), BLOCK_ROWS), BLOCK_CLASSES
