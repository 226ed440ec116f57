"""NextItNet: a stack of dilated convolutions over item embeddings (Yuan et al., WSDM 2019)."""

from torch import nn

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.dilated import BLOCKS
from peterrec.encoders.nextitnet_config import NextItNetConfig


class NextItNet(UserEncoder):
    """The encoder of `config`: causal by default, two-sided with `causal=False`.

    >>> encoder = NextItNet(NextItNetConfig(vocab_size=103, hidden_size=16, dilations=(1, 2)))
    >>> encoder(torch.tensor([[3, 4, 5, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = NextItNetConfig

    def __init__(self, config: NextItNetConfig):
        super().__init__(config)
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
        self.post_init()
