"""The configuration of a SASRec encoder."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from peterrec.encoders.attention_block import ACTIVATIONS
from peterrec.encoders.config import UserEncoderConfig


@strict
class SASRecConfig(UserEncoderConfig):
    """Shape of a causal self-attention encoder (SASRec, ICDM 2018), beside what all encoders share.

    num_blocks: blocks of attention and feed-forward. heads: of the attention; each has `hidden_size / heads` channels.
    feed_forward: inner channels of the feed-forward, as a multiple of `hidden_size`. activation: `gelu` or `relu`.
    attention_dropout: on the attention weights. max_length: the last so many events (and a TCL row behind them) are
    read; what is older is left out, since it has no position.
    """

    model_type: ClassVar[str] = "peterrec_sasrec"

    num_blocks: int = 2
    heads: int = 2
    feed_forward: int = 4
    activation: str = "gelu"
    attention_dropout: float = 0.0

    @property
    def depth(self) -> int:
        return self.num_blocks

    def validate_architecture(self) -> None:
        if min(self.num_blocks, self.heads, self.feed_forward) < 1:
            raise ValueError("num_blocks, heads and feed_forward must be >= 1.")
        if self.hidden_size % self.heads:
            raise ValueError(f"heads must divide hidden_size: {self.hidden_size} channels, {self.heads} heads.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")
        if not 0.0 <= self.attention_dropout < 1.0:
            raise ValueError(f"attention_dropout must be in [0, 1), got {self.attention_dropout}.")
        super().validate_architecture()
