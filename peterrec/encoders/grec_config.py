"""The configuration of a GRec encoder, as a `transformers` configuration."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.dilated import BLOCKS


@strict
class GRecConfig(UserEncoderConfig):
    """Shape of a GRec encoder: a two-sided dilated CNN, and a causal one on it (Yuan et al., WWW 2020, §3.3).

    encoder_dilations, decoder_dilations: one number a convolution of the two-sided and of the causal stack, which may
    be of different depth; `plain` blocks take two, `bottleneck` one. kernel_size: taps, an odd number.
    """

    model_type: ClassVar[str] = "peterrec_grec"

    encoder_dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    decoder_dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    kernel_size: int = 3
    block: str = "plain"

    def validate_architecture(self) -> None:
        """Raises ValueError where the numbers do not fit together."""
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}.")
        each = BLOCKS[self.block].convolutions
        for name in ("encoder_dilations", "decoder_dilations"):
            dilations = getattr(self, name)
            if not dilations or len(dilations) % each or min(dilations) < 1:
                raise ValueError(f"{name} must hold numbers >= 1, {each} a {self.block} block, got {list(dilations)}.")
        if self.kernel_size < 3 or self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and >= 3, got {self.kernel_size}.")
        if self.block == "bottleneck" and self.hidden_size % 2:
            raise ValueError(f"a bottleneck block halves hidden_size, which must be even, got {self.hidden_size}.")
        super().validate_architecture()

    @property
    def causal(self) -> bool:
        """False: the encoder half reads what comes later."""
        return False

    @property
    def depth(self) -> int:
        """How many blocks the encoder runs: the two-sided ones, the join, the causal ones."""
        return (len(self.encoder_dilations) + len(self.decoder_dilations)) // BLOCKS[self.block].convolutions + 1

    @property
    def receptive_field(self) -> int:
        """Positions that an output sees, itself and later ones included."""
        return 1 + (self.kernel_size - 1) * (sum(self.encoder_dilations) + sum(self.decoder_dilations))
