"""Pooled item embeddings: an encoder without blocks, whose readout sees what a history holds and not its order."""

from torch import nn

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.pooled_config import PooledConfig


class PooledItems(UserEncoder):
    """The encoder of `config`: the state at a position is its item's embedding.

    For objectives on whole users (`contrast`, `bag`), which make of the pooled embeddings a learned counterpart of
    latent semantic analysis. It learns next items as badly as it must: from the last item alone.

    >>> encoder = PooledItems(PooledConfig(vocab_size=103, hidden_size=16))
    >>> encoder(torch.tensor([[3, 4, 5, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = PooledConfig

    def __init__(self, config: PooledConfig):
        super().__init__(config)
        self.blocks = nn.ModuleList()
        self.spans = ()
        self.post_init()
