"""DUPN's encoder of events: a property-gated LSTM over item embeddings (Ni et al., KDD 2018)."""

from torch import Tensor, nn

from peterrec.encoders.dupn_config import DUPNConfig
from peterrec.encoders.gated_lstm import GatedLSTMBlock
from peterrec.encoders.right_padded import RightPaddedEncoder
from peterrec.encoders.time_major import TimeMajorEmbedding


class DUPN(RightPaddedEncoder):
    """The encoder of `config`; the attention over its states is the readout `attention`.

    With `num_properties`, `property_ids` `(B, L)` name the kind of each event; without them, or with 0, it is unknown,
    which adds nothing to the gates. Prepared logs hold items alone, so the stages train it without properties.

    >>> encoder = DUPN(DUPNConfig(vocab_size=103, hidden_size=16, num_properties=4))
    >>> encoder(torch.tensor([[3, 4, 5, 0]]), property_ids=torch.tensor([[1, 4, 2, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = DUPNConfig

    def __init__(self, config: DUPNConfig):
        super().__init__(config)
        properties = config.property_size if config.num_properties else 0
        self.property_rows = (
            TimeMajorEmbedding(config.num_properties + 1, properties, padding_idx=0) if properties else None
        )
        blocks = [
            GatedLSTMBlock(config.hidden_size, properties=properties, dropout=config.dropout)
            for _ in range(config.num_blocks)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.spans = (None,) * config.num_blocks
        self.post_init()
        for block in blocks:
            block.lstm.start()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if self.property_rows is not None and module is self.property_rows:
            nn.init.zeros_(self.property_rows.weight[0])  # an unknown kind adds nothing

    def embed_properties(self, property_ids: Tensor | None) -> Tensor | None:
        """Kinds of events `(B, L)` to embeddings `(B, L, P)`; ValueError where the encoder was made without them."""
        if property_ids is None or self.property_rows is None:
            return super().embed_properties(property_ids)
        return self.property_rows(property_ids)
