"""What a user may choose about an encoder."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.loading import encoder_class
from peterrec.errors import SettingsError
from peterrec.settings import Settings

Dilation = Annotated[int, Field(ge=1)]
Kind = Literal["nextitnet", "grec", "sasrec", "dupn", "pooled"]
KINDS: tuple[str, ...] = get_args(Kind)


class EncoderSettings(Settings):
    """Shape of the user encoder. What is none is what the kind takes for it."""

    kind: Kind = Field(
        "sasrec",
        description="sasrec: causal self-attention; nextitnet: dilated CNN; grec: gap-filling CNNs; dupn: LSTM; "
        "pooled: item embeddings alone, without order.",
    )
    hidden_size: int = Field(64, ge=2, description="Channels D of embeddings and hidden states.")
    dropout: float = Field(0.2, ge=0, lt=1, description="On the embeddings and on what each block adds.")
    tie_output: bool = Field(True, description="Score items with the embedding table instead of a second one.")
    max_length: int = Field(200, ge=2, description="Events of a history that the encoder reads, the last ones.")
    readout: Literal["mean", "last", "tcl", "first_last", "tcl_ends", "sqrtn", "attention"] | None = Field(
        None,
        description="How hidden states become the user vector: their mean; sqrtn, their sum over the root of their "
        "number; the last one; tcl, that of a TCL row behind the events; first_last, first and last added; tcl_ends, "
        "the same of TCL rows at both ends, for two-sided encoders; attention, a mean with learned weights. none: "
        "mean, sqrtn of pooled.",
    )
    readout_layers: tuple[int, ...] = Field(
        (-1,),
        min_length=1,
        description="Layers that the readout mixes: 0 the embeddings, 1 the first block, -1 the top.",
    )
    readout_item_weights: bool = Field(
        False, description="With the readout attention: learn a weight for each item too."
    )
    dilations: tuple[Dilation, ...] | None = Field(
        None,
        min_length=1,
        description="nextitnet: dilation of each convolution; a plain block has two, a bottleneck block one. none: 1, "
        "2, 4, 8, 1, 2, 4, 8.",
    )
    causal: bool | None = Field(
        None, description="nextitnet: true reads the past alone, false both sides (for masked_item). none: true."
    )
    encoder_dilations: tuple[Dilation, ...] | None = Field(
        None, min_length=1, description="grec: as dilations, of the two-sided stack. none: 1, 2, 4, 8, 1, 2, 4, 8."
    )
    decoder_dilations: tuple[Dilation, ...] | None = Field(
        None, min_length=1, description="grec: as dilations, of the causal stack. none: 1, 2, 4, 8, 1, 2, 4, 8."
    )
    kernel_size: int | None = Field(None, ge=2, description="nextitnet, grec: taps of each convolution. none: 3.")
    block: Literal["plain", "bottleneck"] | None = Field(
        None,
        description="nextitnet, grec: residual block of NextItNet, Fig. 3b (plain) or Fig. 3a (bottleneck). none: "
        "plain.",
    )
    num_blocks: int | None = Field(
        None, ge=1, description="sasrec, dupn: how many blocks. none: 2 of sasrec, 1 of dupn."
    )
    heads: int | None = Field(None, ge=1, description="sasrec: attention heads; they share hidden_size. none: 2.")
    feed_forward: int | None = Field(
        None, ge=1, description="sasrec: inner channels of the feed-forward, as a multiple of D. none: 4."
    )
    activation: Literal["relu", "gelu"] | None = Field(None, description="sasrec: of the feed-forward. none: gelu.")
    attention_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="sasrec: dropout of the attention weights; above 0 they are held in memory on a CPU. none: 0.0.",
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> "EncoderSettings":
        own = _own_fields(encoder_class(self.kind)[0])
        for name in SOME:
            if getattr(self, name) is not None and name not in own:
                having = " or ".join(kind for kind in KINDS if name in _own_fields(encoder_class(kind)[0]))
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: the encoder {self.kind} has no such setting. Leave it out, or "
                    f"set kind = {having}."
                )
        return self

    def config(self, *, vocab_size: int, fingerprint: str) -> UserEncoderConfig:
        """The encoder's configuration; raises SettingsError where the numbers do not fit together."""
        config_class, _ = encoder_class(self.kind)
        chosen: dict[str, Any] = {name: getattr(self, name) for name in (*ALL, *SOME)}
        try:
            return config_class(
                vocab_size=vocab_size,
                vocabulary_fingerprint=fingerprint,
                **{name: value for name, value in chosen.items() if value is not None},
            )
        except Exception as error:  # noqa: BLE001 - the strict configuration raises several classes of its own
            raise SettingsError(f"encoder: {' '.join(str(error).split())}") from None


def _own_fields(config_class: type[UserEncoderConfig]) -> frozenset[str]:
    """Which of the settings are fields of a kind's configuration."""
    return frozenset(EncoderSettings.model_fields) & frozenset(config_class.__dataclass_fields__)


ALL = tuple(name for name in EncoderSettings.model_fields if name in UserEncoderConfig.__dataclass_fields__)
SOME = tuple(name for name in EncoderSettings.model_fields if name != "kind" and name not in ALL)
