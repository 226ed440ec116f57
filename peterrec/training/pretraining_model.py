"""What pretraining trains: the encoder, and what only its objectives need."""

from typing import Any

from torch import Tensor, nn

from peterrec.encoders.base import UserEncoder
from peterrec.objectives.bag import BagOutput
from peterrec.objectives.contrastive import Projection


class PretrainingModel(nn.Module):
    """An encoder with the projection of the contrast and the output of the bag, which are dropped afterwards.

    Called, it is the encoder, so that compiling it compiles that.
    """

    def __init__(self, encoder: UserEncoder, *, projection: Projection | None, bag: BagOutput | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.bag = bag

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor | None = None) -> Any:
        """The encoder's output for item rows `(B, L)`."""
        if decoder_input_ids is None:
            return self.encoder(input_ids)
        return self.encoder(input_ids, decoder_input_ids=decoder_input_ids)
