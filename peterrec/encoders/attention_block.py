"""The block of a causal self-attention encoder, on batch-first `(B, L, D)` tensors in time-major `(L, B, D)` memory.

Each block is `x + attention(norm(x))`, then `x + feed_forward(norm(x))`; the last one ends with a norm, as stacks with
their norms inside need. Padding stands on the right, so that no valid position attends to it and no mask is made. Every
linear map is a module of its own, for tuners to wrap.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.encoders.block import Block
from peterrec.encoders.dropout import Dropout
from peterrec.encoders.time_major import TimeMajorLayerNorm, TimeMajorLinear

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class SelfAttention(nn.Module):
    """Causal attention of several heads (Vaswani et al. 2017, §3.2): a position reads itself and what came before."""

    def __init__(self, channels: int, *, heads: int, dropout: float):
        super().__init__()
        self.channels = channels
        self.heads = heads
        self.query = TimeMajorLinear(channels, channels)
        self.key = TimeMajorLinear(channels, channels)
        self.value = TimeMajorLinear(channels, channels)
        self.output = TimeMajorLinear(channels, channels)
        self.dropout = nn.Dropout(dropout)  # never called: a module, so that it is switched off with the others

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`."""
        query, key, value = (
            layer(x, domain_ids=domain_ids).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        dropout = self.dropout.p if self.dropout.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        return self.output(mixed.transpose(1, 2).flatten(2), domain_ids=domain_ids)


class FeedForward(nn.Module):
    """`down(activation(up(x)))` at each position, D → factor · D → D."""

    def __init__(self, channels: int, *, factor: int, activation: str, dropout: float):
        super().__init__()
        self.channels = channels
        self.up = TimeMajorLinear(channels, factor * channels)
        self.activation = ACTIVATIONS[activation]()
        self.dropout = Dropout(dropout)
        self.down = TimeMajorLinear(factor * channels, channels)

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`."""
        inner = self.activation(self.up(x, domain_ids=domain_ids))
        return self.down(self.dropout(inner), domain_ids=domain_ids)


class AttentionUnit(nn.Module):
    """What attention adds to its input: of the normed input."""

    def __init__(self, attention: SelfAttention, *, eps: float):
        super().__init__()
        self.norm = TimeMajorLayerNorm(attention.channels, eps=eps)
        self.attention = attention

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`."""
        return self.attention(self.norm(x, domain_ids=domain_ids), domain_ids=domain_ids)


class FeedForwardUnit(nn.Module):
    """What the feed-forward adds to its input: of the normed input."""

    def __init__(self, feed_forward: FeedForward, *, eps: float):
        super().__init__()
        self.norm = TimeMajorLayerNorm(feed_forward.channels, eps=eps)
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`."""
        return self.feed_forward(self.norm(x, domain_ids=domain_ids), domain_ids=domain_ids)


class AttentionBlock(Block):
    """`x + attention(norm(x))`, then `x + feed_forward(norm(x))`; with `ends`, a norm of the whole behind them.

    Serial patches stand behind `output` and `down` (Houlsby et al., ICML 2019, Fig. 2), parallel ones beside attention
    and feed-forward, of whose normed input they read (He et al., ICLR 2022).
    """

    maps = ("unit1.attention.output", "unit2.feed_forward.down")
    layers = ("unit1.attention", "unit2.feed_forward")
    tail = ("unit2.feed_forward.down",)

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        feed_forward: int,
        activation: str,
        eps: float,
        dropout: float,
        attention_dropout: float,
        ends: bool,
    ):
        super().__init__()
        self.unit1 = AttentionUnit(SelfAttention(channels, heads=heads, dropout=attention_dropout), eps=eps)
        self.unit2 = FeedForwardUnit(
            FeedForward(channels, factor=feed_forward, activation=activation, dropout=dropout), eps=eps
        )
        self.dropout = Dropout(dropout)
        self.norm = TimeMajorLayerNorm(channels, eps=eps) if ends else None
        self.norms = ("unit1.norm", "unit2.norm", *(("norm",) if ends else ()))

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)`, padded on the right if at all, to `(B, L, D)`."""
        x = x + self.dropout(self.unit1(x, domain_ids=domain_ids))
        x = x + self.dropout(self.unit2(x, domain_ids=domain_ids))
        return x if self.norm is None else self.norm(x, domain_ids=domain_ids)
