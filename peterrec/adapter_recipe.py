"""What an adapter's TOML may say: which tuner, where it stands, how large it is, what else trains."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from peterrec.errors import SettingsError, did_you_mean
from peterrec.peft_methods import PEFT_METHODS, TRAINS_ROWS, Place, check_options, places
from peterrec.settings import Settings

TUNERS = {
    "none": "the frozen encoder, a trained head",
    "patch": "small bottlenecks inside the frozen encoder (PeterRec)",
    "star": "factors on the frozen weights, one set a domain (STAR)",
    "peft": "one of peft's own methods on the frozen encoder",
    "full": "every weight of the encoder",
}
TABLES = ("patch", "star", "peft")  # tuners with a table of their own, called as they are
DEFAULT_REDUCTION = 8  # the ratio that PeterRec's parameter counts point to
DEFAULT_RANK = 4
Readout = Literal["mean", "last", "tcl", "tcl_ends", "first_last", "sqrtn", "attention", "encoder"]
Layers = tuple[int, ...]
Events = Literal["all"] | Annotated[int, Field(ge=1)]
Blocks = Literal["all"] | Annotated[int, Field(ge=1)]


def check_readout(readout: Readout, *, layers: Layers | None, item_weights: bool | None) -> None:
    """Raises ValueError where the keys of a readout do not go together."""
    if readout == "encoder" and (layers is not None or item_weights is not None):
        raise ValueError("readout = 'encoder' is the encoder's own, layers and item weights included: leave them out")
    if item_weights and readout != "attention":
        raise ValueError(f"item_weights = true belongs to readout = 'attention', and readout is {readout!r}")
    if layers is not None and (not layers or len(set(layers)) < len(layers)):
        raise ValueError(f"layers = {list(layers)}: name one layer or several different ones; -1 is the top")


class PatchRecipe(Settings):
    """Where the model patches of PeterRec (Fig. 3) stand and how large they are."""

    placement: Literal["serial_conv", "serial_block", "parallel_conv", "parallel_unit"] = Field(
        default="serial_conv", description="where in a residual block (PeterRec, Fig. 3b to 3e)"
    )
    bottleneck: int | None = Field(default=None, ge=1, description="channels d of the bottleneck; or give `reduction`")
    reduction: int | None = Field(
        default=None, ge=1, description="the bottleneck has D / reduction channels (8 if neither is given)"
    )
    activation: Literal["relu", "gelu"] = Field(default="relu", description="between the two projections")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="inside the bottleneck")
    train_norms: bool = Field(default=False, description="train the norms of the patched blocks as well")
    shortcut: bool = Field(
        default=False, description="add the patch's input as well, as the published code does; parallel placements only"
    )
    blocks: Blocks = Field(default="all", description="which residual blocks get patches: all, or the top k")

    @model_validator(mode="after")
    def _consistent(self) -> "PatchRecipe":
        if self.bottleneck is not None and self.reduction is not None:
            raise ValueError("give either bottleneck (channels) or reduction (D / reduction channels), not both")
        if self.shortcut and not self.placement.startswith("parallel_"):
            raise ValueError(
                f"shortcut = true belongs to a parallel placement, and placement is {self.placement!r}, whose patch "
                "keeps its input anyway"
            )
        return self

    def width(self, hidden_size: int) -> int:
        """Channels of the bottleneck for `hidden_size` channels; SettingsError where none would be left."""
        if self.bottleneck is not None:
            return self.bottleneck
        reduction = DEFAULT_REDUCTION if self.reduction is None else self.reduction
        if reduction > hidden_size:
            raise SettingsError(
                f"patch.reduction = {reduction}: leaves no channel of the encoder's {hidden_size}; "
                "set patch.bottleneck or a smaller patch.reduction."
            )
        return hidden_size // reduction


class StarRecipe(Settings):
    """What multiplies the frozen weights, a set a domain: W ⊙ (1 + Δ), b + Δb (STAR, CIKM 2021)."""

    form: Literal["full", "low_rank", "per_channel"] = Field(
        default="per_channel", description="Δ as a whole matrix, a product of two thin ones, or a factor a channel"
    )
    rank: int | None = Field(default=None, ge=1, description="of Δ with form = 'low_rank' (4 if not given)")
    domains: Literal["data"] | Annotated[int, Field(ge=1)] = Field(
        default="data",
        description="sets of Δ: data, one a domain of the task's data, or one where it has no domains; 1, one for all",
    )
    norms: bool = Field(default=False, description="partitioned normalisation: the norms get their own as well")
    blocks: Blocks = Field(default="all", description="which residual blocks: all, or the top k")

    @model_validator(mode="after")
    def _consistent(self) -> "StarRecipe":
        if self.rank is not None and self.form != "low_rank":
            raise ValueError(f"rank belongs to form = 'low_rank', and form is {self.form!r}")
        return self


class PeftRecipe(Settings):
    """One of peft's own methods: which, on what, with which of its options."""

    method: str = Field(description="a method of peft, by peft's name in lower case")
    where: Place = Field(description="what it adapts; not every method takes every place")
    blocks: Blocks = Field(default="all", description="which residual blocks: all, or the top k")
    options: dict[str, bool | int | float | str] = Field(default={}, description="options of the method")

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in PEFT_METHODS:
            raise ValueError(f"unknown method. {did_you_mean(method, PEFT_METHODS)}")
        return method

    @model_validator(mode="after")
    def _consistent(self) -> "PeftRecipe":
        if self.where not in places(self.method):
            known = ", ".join(places(self.method))
            raise ValueError(f"where = {self.where!r}: the method {self.method} can stand on {known}")
        if self.where == "items" and self.blocks != "all":
            raise ValueError("blocks: where = 'items' is the item table, which no block holds")
        check_options(self.method, self.options)
        return self


class AdapterRecipe(Settings):
    """Which weights a task may change, and how."""

    name: str
    tuner: str = Field(description="none (head only), patch, star, peft, or full")
    patch: PatchRecipe | None = Field(default=None, description="for the tuner patch")
    star: StarRecipe | None = Field(default=None, description="for the tuner star")
    peft: PeftRecipe | None = Field(default=None, description="for the tuner peft")
    train_tcl: bool = Field(
        default=False, description="train the vocabulary row of the TCL token, which the readout tcl reads"
    )
    readout: Readout | None = Field(default=None, description="instead of the task's readout")
    layers: Layers | None = Field(default=None, description="with `readout`: the layers it reads ([-1] if not given)")
    item_weights: bool | None = Field(default=None, description="with `readout`: learn a weight an item (attention)")
    train_readout: bool | None = Field(default=None, description="instead of the task's train_readout")
    max_length: Events | None = Field(default=None, description="instead of the task's max_length")
    window: int | None = Field(default=None, ge=1, description="instead of the task's window")
    learning_rate: float | None = Field(default=None, gt=0, description="instead of the task's learning rate")
    fit: Literal["gradient", "convex"] = Field(
        default="gradient",
        description="convex: LoRA on the item table and the head are one regression, solved at once; for encoders "
        "and readouts whose user vector is a sum of item embeddings",
    )

    @field_validator("tuner")
    @classmethod
    def _known_tuner(cls, tuner: str) -> str:
        if tuner not in TUNERS:
            raise ValueError(f"unknown tuner. {did_you_mean(tuner, TUNERS)}")
        return tuner

    @model_validator(mode="after")
    def _fits_tuner(self) -> "AdapterRecipe":
        for table in TABLES:
            if (getattr(self, table) is not None) != (self.tuner == table):
                raise ValueError(
                    f"a [{table}] table belongs to tuner = '{table}', which needs it, and to no other tuner"
                )
        if self.tuner == "full" and not self.train_tcl:
            raise ValueError("tuner = 'full' trains every row, TCL included: set train_tcl = true")
        if self.tuner == "none" and self.train_tcl:
            raise ValueError("tuner = 'none' trains the head alone: set train_tcl = false, or take tuner = 'patch'")
        if self.peft is not None:
            self._fits_method(self.peft)
        on_items = self.peft is not None and (self.peft.method, self.peft.where) == ("lora", "items")
        if self.fit == "convex" and not on_items:
            raise ValueError("fit = 'convex' belongs to the peft method lora on the items")
        if self.readout is None and (self.layers is not None or self.item_weights is not None):
            raise ValueError("layers and item_weights belong to a readout: set readout as well")
        if self.readout is not None:
            check_readout(self.readout, layers=self.layers, item_weights=self.item_weights)
        return self

    def star_domains(self, domains: int | None = None) -> int:
        """How many sets of Δ the tuner star has for data with so many `domains` (0: it tells none; None: not known).

        Raises SettingsError where the recipe names another number, unless that is 1, which all domains then share.
        """
        assert self.star is not None
        named = self.star.domains
        if named == "data":
            return domains or 1
        if named > 1 and domains is not None and named != domains:
            data = "no domains" if domains < 2 else f"{domains} domains"
            raise SettingsError(
                f"adapter {self.name}: star.domains = {named}, but the data of the task has {data}. "
                'Set star.domains = "data" for one set a domain, or 1 for one that all share.'
            )
        return named

    def _fits_method(self, peft: PeftRecipe) -> None:
        if peft.method == "trainable_tokens" and not self.train_tcl:
            raise ValueError("the method trainable_tokens trains the TCL row: set train_tcl = true")
        if self.train_tcl and peft.method not in TRAINS_ROWS:
            raise ValueError(
                f"the method {peft.method} cannot hold the TCL row: set train_tcl = false, or take the method lora, "
                "tuner = 'patch' or tuner = 'star'"
            )
        if self.train_tcl and peft.method == "lora" and peft.where == "items":
            raise ValueError("LoRA on the items changes the TCL row already: set train_tcl = false")
