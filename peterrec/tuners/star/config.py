"""How many domains there are, and what each of them changes."""

from dataclasses import dataclass, field

from peterrec.tuners.config import TunerConfig, check_choice, check_count, check_flag
from peterrec.tuners.registration import peft_type
from peterrec.tuners.star.deviation import FORMS

NAME = "peterrec_star"
# every linear map of a block of any kind, by names that nothing outside of the blocks ends with
LINEAR_MAPS = {
    *("conv.linear", "unit1.linear", "unit3.linear"),  # dilated: convolutions, point-wise maps
    *("projector.widen", "projector.narrow"),  # GRec
    *("attention.query", "attention.key", "attention.value", "attention.output"),
    *("feed_forward.up", "feed_forward.down"),
    *("lstm.input", "lstm.property", "lstm.recurrent", "lstm.cell", "lstm.new_cell"),
}
NORMS = {"norm"}


@dataclass
class StarConfig(TunerConfig):
    """Weights `W ⊙ (1 + Δ_k)` and biases `b + Δb_k` for the users of domain k (STAR, CIKM 2021, section 4.3).

    Δ and Δb start without effect: the encoder is exactly the frozen one. They are stored as deviations, so weight
    decay pulls a domain towards the shared weights. Which domain a user belongs to is said at each call by
    `domain_ids` `(B,)`; with an id outside `[0, num_domains)`, such as -1, the shared weights are used. With one
    domain, `domain_ids` may be left out.

    num_domains: K. form: `full`, Δ of the shape of W; `low_rank`, Δ a product of rank `rank`; `per_channel`, one
    factor an output channel. rank: of `low_rank`. norms: partitioned normalisation (section 4.2) as well: gain
    `γ · (1 + δγ_k)` and bias `β + δβ_k`, on batch norms also mean and variance of the domain. target_modules: linear
    maps and norms; by default all linear maps of the blocks. Raises ValueError where a value is not one of these.
    """

    num_domains: int = field(default=1, metadata={"help": "Number of domains."})
    form: str = field(default="per_channel", metadata={"help": f"Shape of the deviations: {', '.join(FORMS)}."})
    rank: int = field(default=4, metadata={"help": "Rank of the deviations of the form low_rank."})
    norms: bool = field(default=False, metadata={"help": "Partitioned normalisation on the norms as well."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = peft_type(NAME)
        check_count("num_domains", self.num_domains)
        check_choice("form", self.form, FORMS)
        check_count("rank", self.rank)
        check_flag("norms", self.norms)
        if self.target_modules is None:
            self.target_modules = set(LINEAR_MAPS)
        if self.norms:
            if isinstance(self.target_modules, str):
                raise ValueError("norms has no effect while target_modules is a pattern: have it match the norms too.")
            self.target_modules = set(self.target_modules) | NORMS
