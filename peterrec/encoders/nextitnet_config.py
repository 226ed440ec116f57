"""The configuration of a NextItNet encoder."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.dilated import BLOCKS


@strict
class NextItNetConfig(UserEncoderConfig):
    """Shape of a NextItNet encoder (causal dilated CNN; WSDM 2019), beside what all encoders share.

    dilations: one number a convolution; `plain` blocks take two, `bottleneck` one. causal: False lets each position
    read both sides, as PeterRec's masked pretraining does. The encoder itself takes histories of any length.
    """

    model_type: ClassVar[str] = "peterrec_nextitnet"

    dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    kernel_size: int = 3
    block: str = "plain"
    causal: bool = True  # type: ignore[assignment]  # a field here

    @property
    def depth(self) -> int:
        return len(self.dilations) // BLOCKS[self.block].convolutions

    def validate_architecture(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}.")
        each = BLOCKS[self.block].convolutions
        if not self.dilations or len(self.dilations) % each:
            raise ValueError(
                f"dilations must hold {each} number(s) a {self.block} block, got {len(self.dilations)} in all."
            )
        if min(self.dilations) < 1 or self.kernel_size < 2:
            raise ValueError("dilations must be >= 1, kernel_size >= 2.")
        if not self.causal and self.kernel_size % 2 == 0:
            raise ValueError(
                f"a two-sided convolution (causal = false) needs an odd kernel_size, got {self.kernel_size}."
            )
        super().validate_architecture()
        if self.block == "bottleneck" and self.hidden_size % 2:
            raise ValueError(f"a bottleneck block halves hidden_size, which must be even, got {self.hidden_size}.")

    @property
    def receptive_field(self) -> int:
        """Positions that the last output sees, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)
