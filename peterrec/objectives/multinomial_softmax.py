"""Exact softmax cross-entropy where a state has several targets, whose logits are computed once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.objectives.softmax import add_product, extent, product, softmax_


class _MultinomialSoftmax(torch.autograd.Function):
    """Computes loss and gradients in one pass over chunks of states, so that nothing `(N, V)` is kept.

    `owners` `(M,)` are the states of the targets, in rising order, and `stops` says where those of a chunk end.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
        states: Tensor,
        table: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        owners: Tensor,
        stops: tuple[int, ...],
        first_row: int,
        chunk: int,
        keep: bool,
    ) -> Tensor:
        need_states, need_table, need_bias = (keep and needed for needed in ctx.needs_input_grad[:3])
        precise = torch.promote_types(states.dtype, torch.float32)
        classes = table[first_row:].to(states.dtype)
        offsets = None if bias is None else bias[first_row:].to(precise)
        real = (targets >= first_row).to(precise)
        columns = (targets - first_row).clamp(min=0)
        found = real.new_zeros(len(states)).index_add_(0, owners, real)
        shares = real / found.clamp(min=1).index_select(0, owners)
        counted = (found > 0).to(precise).unsqueeze(1)
        grad_states = torch.empty_like(states) if need_states else None
        grad_table = torch.zeros_like(table) if need_table else None
        grad_bias = torch.zeros_like(bias, dtype=precise) if need_bias and bias is not None else None
        room = states.new_empty(min(chunk, len(states)), len(classes), dtype=precise)
        total = torch.zeros((), dtype=precise, device=states.device)
        begin = 0
        for number, first in enumerate(range(0, len(states), chunk)):
            rows, weights = states[first : first + chunk], counted[first : first + chunk]
            slope = room[: len(rows)]
            product(rows, classes.t(), out=slope)
            if offsets is not None:
                slope += offsets
            own = slice(begin, begin := stops[number])
            places = (owners[own] - first) * len(classes) + columns[own]
            total -= (slope.view(-1).index_select(0, places) * shares[own]).sum()
            total += (softmax_(slope) * weights).sum()
            slope *= weights
            slope.view(-1).index_add_(0, places, -shares[own])
            low = slope.to(states.dtype)
            if grad_states is not None:
                torch.mm(low, classes, out=grad_states[first : first + chunk])
            if grad_table is not None:
                add_product(grad_table[first_row:], low.t(), rows)
            if grad_bias is not None:
                grad_bias[first_row:] += slope.sum(dim=0)
        count = counted.sum().clamp(min=1)
        ctx.save_for_backward(grad_states, grad_table, grad_bias, count)
        return total / count

    @staticmethod
    def backward(ctx, grad_output: Tensor):  # type: ignore[override]
        *gradients, count = ctx.saved_tensors
        scale = grad_output / count
        return *(None if g is None else g * scale.to(g.dtype) for g in gradients), *(None,) * 6


def multinomial_softmax_loss(
    states: Tensor,
    table: Tensor,
    *,
    targets: Tensor,
    counts: NDArray[np.integer],
    bias: Tensor | None = None,
    first_row: int = FIRST_ITEM,
    chunk: int | None = None,
) -> Tensor:
    """Mean over the `states` `(N, D)` of −1/|S| Σ_{i ∈ S} log softmaxᵢ(state · `table` `(V, D)`ᵀ + `bias` `(V,)`).

    S are the `targets` `(M,)` of a state, `counts` `(N,)` of them (numbers that the host knows), those of one state
    after those of another; an item that is among them twice counts twice. Rows of `table` before `first_row` are no
    candidates, and targets among them are none; states without targets do not count. The multinomial likelihood is
    that of Liang et al., Variational Autoencoders for Collaborative Filtering (WWW 2018), section 2.1, a mean over a
    user's items in place of the sum, so that users weigh the same.

    Gradients are computed in the forward pass, `chunk` states at a time, in `chunk · V` numbers. Under autocast the
    products run in the lower precision and the softmax in float32.
    """
    device = states.device
    assert len(counts) == len(states), "each state has a number of targets"
    if chunk is None:
        chunk, _ = extent(len(table) - first_row, device=device.type)
    if torch.is_autocast_enabled(device.type):
        states = states.to(torch.get_autocast_dtype(device.type))
    owners = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
    ends = np.cumsum(counts)
    stops = tuple(int(ends[min(first + chunk, len(ends)) - 1]) for first in range(0, len(ends), chunk))
    keep = torch.is_grad_enabled()  # inside of the function it never is
    return _MultinomialSoftmax.apply(  # type: ignore[no-any-return]
        states, table, bias, targets, upload(owners, device), stops, first_row, chunk, keep
    )
