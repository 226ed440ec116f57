"""NextItNet: a stack of dilated convolutions over item embeddings (Yuan et al., WSDM 2019)."""

from torch import nn

from peterrec.data.vocabulary import PAD
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.config import NextItNetConfig
from peterrec.encoders.dilated import BLOCKS, TimeMajorEmbedding


class NextItNet(UserEncoder):
    """The encoder of `config`: causal by default, two-sided with `causal=False`.

    >>> encoder = NextItNet(NextItNetConfig(vocab_size=103, hidden_size=16, dilations=(1, 2)))
    >>> encoder(torch.tensor([[3, 4, 5, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = NextItNetConfig

    def __init__(self, config: NextItNetConfig):
        super().__init__(config)
        self.embed_tokens = TimeMajorEmbedding(config.vocab_size, config.hidden_size, padding_idx=PAD)
        self.embed_dropout = nn.Dropout(config.dropout)
        block = BLOCKS[config.block]
        blocks = [
            block(
                config.hidden_size,
                tuple(config.dilations[first : first + block.convolutions]),
                kernel_size=config.kernel_size,
                causal=config.causal,
                eps=config.layer_norm_eps,
                dropout=config.dropout,
            )
            for first in range(0, len(config.dilations), block.convolutions)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.spans = tuple(sum(block.spans) for block in blocks)
        self.output = None if config.tie_output else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()
