"""Row-sparse gradients of tables: which rows a step touched, and the sum of what it found for each."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from peterrec.data.vocabulary import PAD


class RowGradient(NamedTuple):
    """The gradient of the rows `rows` `(N,)` of a table, `values` `(N, D)`; rows not named have none.

    Rows ascend and none comes twice, but for PAD, which may fill unused places behind them.
    """

    rows: Tensor
    values: Tensor


def summed_rows(gradient: Tensor) -> RowGradient:
    """Sums the duplicate rows of a sparse gradient `(V, D)`; costs nothing that grows with V.

    The gradient of row 0, PAD or the spare row of a shard, becomes zero. On the CPU there are as many rows as differ;
    elsewhere their number stays on the device, so that nothing waits for it, and PAD stands in the places that are
    left over.
    """
    rows, values = gradient._indices()[0], gradient._values()
    if not len(rows):
        return RowGradient(rows, values)
    if not gradient.is_coalesced():
        in_order, order = torch.sort(rows, stable=True)
        if rows.device.type == "cpu":
            rows, counts = torch.unique_consecutive(in_order, return_counts=True)
            starts = counts.cumsum(0).sub_(counts)
        else:
            rows, starts = _distinct(in_order)
        # one pass that gathers and adds; sequential within a row, so the sum has the same bits every time
        values = F.embedding_bag(order, values, starts, mode="sum")
    values[:1].mul_((rows[:1] != PAD).unsqueeze(1))  # the lowest row stands first
    return RowGradient(rows, values)


def _distinct(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ones of sorted `rows` `(N,)` and where each begins, both `(N,)`; PAD and N where there are fewer."""
    count = len(rows)
    begins = torch.ones_like(rows)
    begins[1:] = rows[1:] != rows[:-1]
    starts = torch.searchsorted(begins.cumsum(0), torch.arange(1, count + 1, device=rows.device))
    return torch.where(starts < count, rows[starts.clamp(max=count - 1)], PAD), starts


def row_gradient(table: Tensor) -> RowGradient | None:
    """The row-sparse gradient of a table, duplicates summed; None where it has none.

    With `set_row_gradient` this is how several processes exchange what they found: each sends rows and values, and
    the gradient of all is the concatenation.
    """
    gradient = table.grad
    if gradient is None:
        return None
    assert gradient.is_sparse, "a table whose rows are looked up got a dense gradient: something reads all of it"
    return summed_rows(gradient)


def set_row_gradient(table: Tensor, gradient: RowGradient) -> None:
    """Makes `gradient` that of a table; its rows may come in any order and several times."""
    table.grad = torch.sparse_coo_tensor(
        gradient.rows.unsqueeze(0), gradient.values, table.shape, check_invariants=False, is_coalesced=False
    )
