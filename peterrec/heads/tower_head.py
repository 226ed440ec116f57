"""A tower of its own and one output."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.mlp import MLP, RowLinear


class TowerHead(nn.Module):
    """Hidden layers, and a linear map to one number: `(B, D)` → `(B,)`.

    With `parent_channels`, the widths of other heads' features, one more layer as wide as the tower reads them beside
    its own (DBMTL, Wang et al., arXiv 1902.09154). With `product`, the width of a product of vectors, the output reads
    that too, as it is (GMF beside an MLP: NeuMF, He et al., WWW 2017, eq. 12); where `channels` is None it alone (GMF).
    `channels` is the width of the features that the output reads.
    """

    def __init__(
        self,
        channels: int | None,
        *,
        hidden: Sequence[int],
        dropout: float = 0.0,
        parent_channels: Sequence[int] = (),
        bias: bool = True,
        product: int = 0,
    ):
        super().__init__()
        assert channels is not None or (product and not parent_channels)
        self.tower = None if channels is None else MLP(channels, hidden, dropout=dropout)
        own = 0 if self.tower is None else self.tower.channels
        self.link = None
        if parent_channels:
            self.link = MLP(own + sum(parent_channels), [own], dropout=dropout)
        self.channels = own + product
        self.output = RowLinear(self.channels, 1, bias=bias)

    def features(
        self,
        x: Tensor | None,
        *,
        parents: Sequence[Tensor] = (),
        product: Tensor | None = None,
        domain_ids: Tensor | None = None,
    ) -> Tensor:
        """What the output reads, `(B, channels)`: of `x` `(B, D)`, the parents' features `(B, D_parent)`, and the
        `product` `(B, P)` as it is."""
        if self.tower is None:
            assert product is not None
            return product
        own = self.tower(x, domain_ids=domain_ids)
        if self.link is not None:
            own = self.link(torch.cat([own, *parents], dim=-1), domain_ids=domain_ids)
        else:
            assert not parents
        return own if product is None else torch.cat([own, product], dim=-1)

    def raw(self, features: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Features `(B, channels)` to logits or values `(B,)`, in float32 at least.

        Under autocast too: rounded to half precision many rows of a batch would tie.
        """
        device = features.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                found = self.output(
                    features.to(torch.promote_types(features.dtype, torch.float32)), domain_ids=domain_ids
                )
        else:
            found = self.output(features, domain_ids=domain_ids)
        return found.squeeze(-1).to(torch.promote_types(found.dtype, torch.float32))

    def start_at(self, value: float) -> None:
        """Has the output start at about `value`, by its bias."""
        self.output.bias.fill_(value)

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, D)`, with a domain each `(B,)` or none, to `(B,)`; for a head without parents."""
        return self.raw(self.features(x, domain_ids=domain_ids), domain_ids)
