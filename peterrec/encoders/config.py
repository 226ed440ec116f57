"""Configurations of user encoders, as `transformers` configurations."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from peterrec.encoders.dilated import BLOCKS
from peterrec.encoders.readout import READOUTS


@strict
class NextItNetConfig(PreTrainedConfig):
    """Shape of a NextItNet encoder (causal dilated CNN; WSDM 2019).

    vocab_size: rows of the item table, the three special rows (PAD 0, MASK 1, TCL 2) among them.
    hidden_size: channels D. dilations: one number a convolution; `plain` blocks take two, `bottleneck` one.
    max_length: positions read at training; the encoder itself takes any length.
    readout: how hidden states become the user vector (`last`, `tcl`, `mean`).
    tie_output: score items with the embedding table, or with a table of their own.
    vocabulary_fingerprint: which item vocabulary the rows belong to.
    """

    model_type: ClassVar[str] = "peterrec_nextitnet"

    vocab_size: int = 1003
    hidden_size: int = 64
    dilations: list[int] | tuple[int, ...] = (1, 2, 4, 8, 1, 2, 4, 8)
    kernel_size: int = 3
    block: str = "plain"
    causal: bool = True
    dropout: float = 0.0
    tie_output: bool = True
    max_length: int = 200
    readout: str = "mean"
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    vocabulary_fingerprint: str = ""
    pad_token_id: int | None = 0

    def validate_architecture(self) -> None:
        """Raises ValueError where the numbers do not fit together."""
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}.")
        if self.readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {self.readout!r}.")
        each = BLOCKS[self.block].convolutions
        if not self.dilations or len(self.dilations) % each:
            raise ValueError(
                f"dilations must hold {each} number(s) a {self.block} block, got {len(self.dilations)} in all."
            )
        if min(self.dilations) < 1 or self.kernel_size < 2 or self.hidden_size < 2 or self.vocab_size < 4:
            raise ValueError("dilations must be >= 1, kernel_size and hidden_size >= 2, vocab_size >= 4.")
        if self.block == "bottleneck" and self.hidden_size % 2:
            raise ValueError(f"a bottleneck block halves hidden_size, which must be even, got {self.hidden_size}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")

    @property
    def receptive_field(self) -> int:
        """Positions that the last output sees, itself included."""
        return 1 + (self.kernel_size - 1) * sum(self.dilations)
