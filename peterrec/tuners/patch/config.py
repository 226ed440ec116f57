"""What a patch is and where it goes."""

from dataclasses import dataclass, field

from peterrec.tuners.config import TunerConfig, check_choice, check_count, check_flag
from peterrec.tuners.patch.placement import PLACEMENTS
from peterrec.tuners.registration import peft_type

NAME = "peterrec_patch"
ACTIVATIONS = ("relu", "gelu")


@dataclass
class PatchConfig(TunerConfig):
    """Bottleneck patches `P(x) = Up(activation(Down(x)))` in a frozen encoder (PeterRec, SIGIR 2020, Fig. 3).

    `Up` starts at zero, so that the patched encoder is the frozen one exactly, but for `shortcut`.

    placement: `serial_conv` (Fig. 3b), `y + P(y)` behind each dilated convolution, before its norm; on bottleneck
    blocks, behind the dilated convolution between the two point-wise maps, of width D/2. `serial_block` (3c),
    `y + P(y)` once a block, on the output of its last unit, before dropout and the residual sum. `parallel_conv` (3d),
    `conv(x) + P(x)`, where x is the input of the convolution. `parallel_unit` (3e), `unit(x) + P(x)`: the patch ends
    behind norm and ReLU; bottleneck blocks have no such place, since theirs stand before the convolution.
    In attention blocks `serial_conv` stands behind the output map of the attention and the last map of the feed-forward
    (Houlsby et al., ICML 2019), `serial_block` behind the latter, `parallel_conv` beside both layers, reading what they
    read (He et al., ICLR 2022); in LSTM blocks all three stand behind or beside the LSTM, outside of its recurrence.
    bottleneck: inner width; D/8 has 8.3 % of a convolution's weights. activation: `relu`, or `gelu` as in the published
    code. dropout: on the inner activation. train_norms: the norms of those blocks get a copy an adapter, which is
    trained and saved with it. shortcut: parallel placements add their input as well, `conv(x) + x + P(x)`, as the
    published code does; the patched encoder then does not start as the frozen one.
    Raises ValueError where a value is not one of these.
    """

    placement: str = field(default="serial_conv", metadata={"help": f"Where patches go: {', '.join(PLACEMENTS)}."})
    bottleneck: int = field(default=8, metadata={"help": "Inner width of the patch."})
    activation: str = field(default="relu", metadata={"help": "Non-linearity inside the patch: relu or gelu."})
    dropout: float = field(default=0.0, metadata={"help": "Dropout on the inner activation."})
    train_norms: bool = field(default=False, metadata={"help": "Train a copy of the norms of the patched blocks."})
    shortcut: bool = field(default=False, metadata={"help": "Parallel patches add their input too; no identity."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(NAME)
        check_choice("placement", self.placement, PLACEMENTS)
        check_count("bottleneck", self.bottleneck)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_flag("train_norms", self.train_norms)
        check_flag("shortcut", self.shortcut)
        dropout = self.dropout
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be a number in [0, 1), got {dropout!r}.")
        if self.shortcut and not PLACEMENTS[self.placement].parallel:
            raise ValueError(
                f"shortcut belongs to the parallel placements: {self.placement} keeps its input in the sum anyway."
            )
        if self.train_norms and isinstance(self.target_modules, str):
            raise ValueError("train_norms needs target_modules as a list of names, or left out, not a pattern.")
