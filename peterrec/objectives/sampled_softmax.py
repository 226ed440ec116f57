"""Softmax cross-entropy against a sample of the catalogue, whose cost does not grow with the catalogue."""

import torch
from torch import Tensor

from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.objectives.softmax import add_product, product, softmax_

CHUNK_ELEMENTS = {"cpu": 2**18}  # logits of a chunk of rows: on a processor they stay in cache from product to product
ACCELERATOR_ELEMENTS = 2**26
NEVER = -1e30  # a logit whose share is zero; finite, so that a row without negatives has no NaN


class _SampledSoftmax(torch.autograd.Function):
    """Computes loss and gradients in one pass over chunks of rows, so that nothing `(N, K)` is kept.

    The gradient of a row is the probability of its negatives together, times the difference between their mean,
    weighted by their softmax, and its target.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        hidden: Tensor,
        target_rows: Tensor,
        negative_rows: Tensor,
        targets: Tensor,
        negatives: Tensor,
        log_counts: Tensor,
        target_log_counts: Tensor,
        weights: Tensor | None,
        first_row: int,
        chunk: int,
        keep: bool,
    ) -> Tensor:
        need_hidden, need_target, need_negative = (keep and needed for needed in ctx.needs_input_grad[:3])
        precise = torch.promote_types(hidden.dtype, torch.float32)
        own_rows, rest_rows = target_rows.to(hidden.dtype), negative_rows.to(hidden.dtype)
        bias = log_counts.to(precise).neg().clamp(min=NEVER)
        own_bias = target_log_counts.to(precise).unsqueeze(1)
        real = (targets >= first_row).unsqueeze(1)
        if weights is not None:
            real = real * weights.to(precise).unsqueeze(1)
        # a row's own target is none of its negatives; they are sorted and distinct, so it is one of them at most
        place = torch.searchsorted(negatives, targets).clamp(max=len(negatives) - 1).unsqueeze(1)
        hit = negatives[place] == targets.unsqueeze(1)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_target = torch.empty_like(target_rows) if need_target else None
        grad_negative = torch.zeros_like(negative_rows, dtype=precise) if need_negative else None
        room = hidden.new_empty(min(chunk, len(hidden)), len(rest_rows), dtype=precise)
        total = torch.zeros((), dtype=precise, device=hidden.device)
        for start in range(0, len(hidden), chunk):
            part = slice(start, start + chunk)
            rows, shares = hidden[part], room[: len(hidden) - start]
            product(rows, rest_rows.t(), out=shares)
            shares += bias
            shares.scatter_(1, place[part], shares.gather(1, place[part]).masked_fill_(hit[part], NEVER))
            own = (rows.to(precise) * own_rows[part]).sum(dim=1, keepdim=True) - own_bias[part]
            log_rest = softmax_(shares)
            log_sum = torch.logaddexp(log_rest, own)
            total += ((log_sum - own) * real[part]).sum()
            rest = (log_rest - log_sum).exp() * real[part]
            low, scaled = shares.to(hidden.dtype), (rows * rest).to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(low, rest_rows, out=grad_hidden[part]).sub_(own_rows[part]).mul_(rest)
            if grad_target is not None:
                grad_target[part] = -scaled
            if grad_negative is not None:
                add_product(grad_negative, low.t(), scaled)
        count = real.sum()
        count = count.clamp(min=1) if weights is None else torch.where(count > 0, count, 1)
        ctx.save_for_backward(grad_hidden, grad_target, grad_negative, count)
        return total / count

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        *gradients, count = ctx.saved_tensors
        scale = grad_output / count
        return *(None if g is None else g * scale.to(g.dtype) for g in gradients), *(None,) * 8


def sampled_softmax_loss(
    hidden: Tensor,
    *,
    target_rows: Tensor,
    negative_rows: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_counts: Tensor,
    target_log_counts: Tensor,
    weights: Tensor | None = None,
    first_row: int = FIRST_ITEM,
    chunk: int | None = None,
) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` among themselves and `negatives` `(K,)`, which all rows share.

    With `weights` `(N,)` it is the weighted mean.

    The scores are the products of `hidden` `(N, D)` with the items' rows, `target_rows` `(N, D)` and `negative_rows`
    `(K, D)`, less the log of how often the item is expected among the negatives, `log_counts` `(K,)` and
    `target_log_counts` `(N,)` (Bengio & Senécal, Adaptive Importance Sampling, 2008; Jean et al., ACL 2015, section
    3). With items drawn independently of each other this is the posterior of the target among the candidates, so
    that with any number of them the loss is least where the scores are those of the whole catalogue's softmax.
    `negatives` are distinct and in rising order. A target that was drawn as well is left out of its row's negatives.
    Negatives of infinite `log_counts` never count, nor do rows whose target is before `first_row`.

    Gradients are computed in the forward pass, `chunk` rows at a time. Under autocast the products run in the lower
    precision and the softmax in float32. No targets give a loss of zero.
    """
    device = hidden.device.type
    if chunk is None:
        chunk = max(CHUNK_ELEMENTS.get(device, ACCELERATOR_ELEMENTS) // max(len(negatives), 1), 1)
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    keep = torch.is_grad_enabled()  # inside of the function it never is
    return _SampledSoftmax.apply(  # type: ignore[no-any-return]
        hidden,
        target_rows,
        negative_rows,
        targets,
        negatives,
        log_counts,
        target_log_counts,
        weights,
        first_row,
        chunk,
        keep,
    )
