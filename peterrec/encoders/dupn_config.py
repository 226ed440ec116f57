"""The configuration of a DUPN encoder."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from peterrec.encoders.config import UserEncoderConfig


@strict
class DUPNConfig(UserEncoderConfig):
    """Shape of DUPN's encoder of events (property-gated LSTM; KDD 2018), beside what all encoders share.

    num_blocks: LSTMs, one on top of the other. num_properties: how many kinds of events `property_ids` tells apart
    (behaviour, scene, hour, as one number from 1; 0 is an unknown kind); with 0 of them the gates see the item alone.
    property_size: channels P of their embeddings.
    """

    model_type: ClassVar[str] = "peterrec_dupn"

    num_blocks: int = 1
    num_properties: int = 0
    property_size: int = 16

    @property
    def depth(self) -> int:
        return self.num_blocks

    def validate_architecture(self) -> None:
        if self.num_blocks < 1 or self.num_properties < 0 or self.property_size < 1:
            raise ValueError("num_blocks and property_size must be >= 1, num_properties >= 0.")
        super().validate_architecture()
