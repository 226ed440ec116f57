"""What a user may choose about an encoder."""

from typing import Annotated, Literal

from pydantic import Field

from peterrec.encoders.config import NextItNetConfig
from peterrec.errors import SettingsError
from peterrec.settings import Settings

Dilation = Annotated[int, Field(ge=1)]


class EncoderSettings(Settings):
    """Shape of the user encoder."""

    kind: Literal["nextitnet"] = Field("nextitnet", description="Which encoder.")
    hidden_size: int = Field(64, ge=2, description="Channels D of embeddings and hidden states.")
    dilations: tuple[Dilation, ...] = Field(
        (1, 2, 4, 8, 1, 2, 4, 8),
        min_length=1,
        description="One number a convolution; a plain block takes two, a bottleneck block one.",
    )
    kernel_size: int = Field(3, ge=2, description="Taps of each convolution.")
    block: Literal["plain", "bottleneck"] = Field(
        "plain", description="Residual block of NextItNet: Fig. 3b (plain) or Fig. 3a (bottleneck)."
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="On the embeddings and on what each block adds.")
    tie_output: bool = Field(True, description="Score items with the embedding table instead of a second one.")
    max_length: int = Field(200, ge=2, description="Events of a history that the encoder reads, the last ones.")
    readout: Literal["mean", "last", "tcl"] = Field("mean", description="How hidden states become the user vector.")

    def config(self, *, vocab_size: int, fingerprint: str) -> NextItNetConfig:
        """The encoder's configuration; raises SettingsError where the numbers do not fit together."""
        try:
            return NextItNetConfig(
                vocab_size=vocab_size,
                hidden_size=self.hidden_size,
                dilations=self.dilations,
                kernel_size=self.kernel_size,
                block=self.block,
                dropout=self.dropout,
                tie_output=self.tie_output,
                max_length=self.max_length,
                readout=self.readout,
                vocabulary_fingerprint=fingerprint,
            )
        except Exception as error:  # noqa: BLE001 - the strict configuration raises several classes of its own
            raise SettingsError(f"encoder: {' '.join(str(error).split())}") from None
