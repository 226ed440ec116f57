"""The block of GRec between its two stacks (Yuan et al., WWW 2020, §3.3)."""

from torch import Tensor, nn

from peterrec.encoders.time_major import TimeMajorLinear


class Projector(nn.Module):
    """Inverted bottleneck `x + narrow(ReLU(widen(x)))`, D → 2D → D at each position (§3.3.3)."""

    def __init__(self, channels: int):
        super().__init__()
        self.widen = TimeMajorLinear(channels, 2 * channels)
        self.activation = nn.ReLU()
        self.narrow = TimeMajorLinear(2 * channels, channels)

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`."""
        inner = self.activation(self.widen(x, domain_ids=domain_ids))
        return x + self.narrow(inner, domain_ids=domain_ids)


class JoinBlock(nn.Module):
    """Where the decoder begins: the projector of what the two-sided blocks found and the decoder's embeddings, added.

    It has no convolution, so no patches go into it; its linear maps can be wrapped as those of the other blocks.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.projector = Projector(channels)

    def forward(self, encoded: Tensor, decoded: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps states and embeddings, each `(B, L, D)`, to the states `(B, L, D)` that the causal blocks read."""
        return self.projector(encoded + decoded, domain_ids=domain_ids)
