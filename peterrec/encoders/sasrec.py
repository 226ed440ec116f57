"""SASRec: causal self-attention over item embeddings (Kang and McAuley, ICDM 2018)."""

import torch
from torch import Tensor, nn

from peterrec.encoders.attention_block import AttentionBlock
from peterrec.encoders.right_padded import RightPaddedEncoder
from peterrec.encoders.sasrec_config import SASRecConfig
from peterrec.encoders.time_major import TimeMajorEmbedding


class SASRec(RightPaddedEncoder):
    """The encoder of `config`: blocks with their norms inside, scored by the item table itself (§3.4 and §3.5).

    Positions are learned and counted from the end, so that the last event of a history is always at the same one,
    however long the history and wherever its padding. There are `max_length` of them, and one more for a TCL row behind
    the last event: one call encodes the last so many valid positions of a row, and takes older ones for padding.
    So a state, although causal, depends on how many events follow it in the row, and not on which: an event that is
    appended moves all earlier ones to other positions.

    >>> encoder = SASRec(SASRecConfig(vocab_size=103, hidden_size=16))
    >>> encoder(torch.tensor([[3, 4, 5, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = SASRecConfig

    def __init__(self, config: SASRecConfig):
        super().__init__(config)
        self.window = config.max_length + 1
        self.embed_positions = TimeMajorEmbedding(self.window, config.hidden_size)
        self.blocks = nn.ModuleList(
            AttentionBlock(
                config.hidden_size,
                heads=config.heads,
                feed_forward=config.feed_forward,
                activation=config.activation,
                eps=config.layer_norm_eps,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                ends=number == config.num_blocks,
            )
            for number in range(1, config.num_blocks + 1)
        )
        self.spans = (None,) * config.num_blocks
        self.post_init()

    def encoded(self, valid: Tensor) -> Tensor:
        """Which of the `valid` positions `(B, L)` one call encodes: the last `max_length` + 1 of a row."""
        assert self.window is not None
        if valid.shape[1] <= self.window:
            return valid
        behind = valid.sum(dim=1, keepdim=True) - valid.cumsum(dim=1)
        return valid & (behind < self.window)

    def enter(self, hidden: Tensor, counts: Tensor) -> Tensor:
        """The embeddings `(B, L, D)` and those of their positions, 0 the last of the `counts` `(B,)` that count."""
        columns = torch.arange(hidden.shape[1], device=hidden.device)
        positions = counts.unsqueeze(1) - 1 - columns
        return hidden + self.embed_positions(positions.clamp(0, self.config.max_length))
