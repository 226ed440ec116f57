"""The blocks of GRec: one level of its two stacks, and the projector that ends them (Yuan et al., WWW 2020, §3.3)."""

from torch import Tensor, nn

from peterrec.encoders.bare import is_bare
from peterrec.encoders.dilated import BottleneckBlock, PlainBlock
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


class GRecBlock(nn.Module):
    """One level of the two stacks: a two-sided block, a causal one, or both; at the top the projector of their sum.

    Tuners that go on the blocks of an encoder so reach both stacks and the projector, and "the top k blocks" are the
    top k of each.
    """

    def __init__(
        self,
        encoder: PlainBlock | BottleneckBlock | None,
        decoder: PlainBlock | BottleneckBlock | None,
        projector: Projector | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.projector = projector

    def forward(
        self,
        encoded: Tensor,
        decoded: Tensor,
        encoder_mask: Tensor | None = None,
        decoder_mask: Tensor | None = None,
        domain_ids: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Maps the states of both stacks, each `(B, L, D)`, to the next ones; at the top to one, joined.

        The masks `(B, L, 1)` are 0 at padding, where that stack's states must be zero; without one no valid position
        reads padding.
        """
        if self.encoder is not None:
            encoded = _run(self.encoder, encoded, encoder_mask, domain_ids)
        if self.decoder is not None:
            decoded = _run(self.decoder, decoded, decoder_mask, domain_ids)
        if self.projector is not None:
            return (self.projector(encoded + decoded, domain_ids=domain_ids),)
        return encoded, decoded


def _run(block: nn.Module, x: Tensor, mask: Tensor | None, domain_ids: Tensor | None) -> Tensor:
    x = block(x, mask, domain_ids=domain_ids)
    if mask is None or is_bare(block, PlainBlock) or is_bare(block, BottleneckBlock):
        return x
    return x * mask  # what is hung on a block may not leave padding zero
