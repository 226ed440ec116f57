"""What a patch is and where it goes."""

from dataclasses import dataclass, field

from peterrec.tuners.config import TunerConfig
from peterrec.tuners.registration import peft_type

NAME = "peterrec_patch"
ACTIVATIONS = ("relu", "gelu")
# placement -> name of the modules that are wrapped (PeterRec, SIGIR 2020, Fig. 3)
PLACEMENTS = {"serial_conv": "conv"}


@dataclass
class PatchConfig(TunerConfig):
    """A bottleneck patch on a frozen encoder: `y + Up(activation(Down(y)))`, exactly the identity at the start.

    placement: `serial_conv`, after each dilated convolution and before its norm (PeterRec, Fig. 3b).
    bottleneck: inner width. dropout: on the inner activation.
    """

    placement: str = field(default="serial_conv", metadata={"help": "Where the patch goes."})
    bottleneck: int = field(default=8, metadata={"help": "Inner width of the patch."})
    activation: str = field(default="relu", metadata={"help": "Non-linearity inside the patch: relu or gelu."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the inner activation."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(NAME)
        if self.placement not in PLACEMENTS:
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, got {self.placement!r}.")
        if isinstance(self.bottleneck, bool) or not isinstance(self.bottleneck, int) or self.bottleneck < 1:
            raise ValueError(f"bottleneck must be a whole number >= 1, got {self.bottleneck!r}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}.")
        if self.target_modules is None:
            self.target_modules = {PLACEMENTS[self.placement]}
