"""Layers of linear maps, ReLU and dropout, whose maps can be told which domain each row is of."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from peterrec.encoders.dropout import Dropout


class RowLinear(nn.Linear):
    """A linear map of the last axis of `(B, …, D_in)` that takes, and ignores, the rows' `domain_ids` `(B,)`.

    A layer with weights a domain that stands in its place reads them. It starts as `torch.nn.Linear` does.
    """

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return super().forward(input)


class MLP(nn.Module):
    """A linear map, ReLU and dropout for each of `hidden`, after the last too; without any, the input as it is.

    `channels` is its output width.
    """

    def __init__(self, channels: int, hidden: Sequence[int], *, dropout: float = 0.0):
        super().__init__()
        widths = (channels, *hidden)
        self.channels = widths[-1]
        self.linears = nn.ModuleList(RowLinear(width, out) for width, out in itertools.pairwise(widths))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, …, D)` to `(B, …, channels)`; `domain_ids` `(B,)`, -1 where unknown, go to each linear map."""
        for linear in self.linears:
            x = self.dropout(linear(x, domain_ids=domain_ids).relu())
        return x
