"""The configuration of a pooled encoder."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from peterrec.encoders.config import UserEncoderConfig


@strict
class PooledConfig(UserEncoderConfig):
    """Shape of a pooled encoder: what all encoders share, and no blocks. Histories may have any length."""

    model_type: ClassVar[str] = "peterrec_pooled"

    readout: str = "sqrtn"

    @property
    def depth(self) -> int:
        return 0
