"""A head of a network without a body: a constant, to which terms are added."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConstantHead(nn.Module):
    """The bias w_0 of a ranker, whatever it is given: `(B, 0)` → `(B,)`."""

    channels = 0

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def features(
        self,
        x: Tensor | None,
        *,
        parents: Sequence[Tensor] = (),
        product: Tensor | None = None,
        domain_ids: Tensor | None = None,
    ) -> Tensor:
        """`x` `(B, 0)` as it is: there is nothing that others could read."""
        assert x is not None
        assert not parents
        assert product is None
        return x

    def raw(self, features: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """The constant, for each row `(B,)`."""
        return self.bias.expand(len(features))

    def start_at(self, value: float) -> None:
        """Has the constant be `value`."""
        self.bias.fill_(value)
