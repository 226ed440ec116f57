"""What the TOML of a task on impressions may say: experts and routers, heads, objectives, and how they are measured."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from peterrec.balancing_recipe import BalancerName, Balancing, check_balancing
from peterrec.history_recipe import HistoryRecipe, MaxLengthKey, ReadoutKey, TrainReadoutKey
from peterrec.settings import Settings

Router = Literal["one_hot", "softmax", "linear", "hard_concrete", "matrix"]
Loss = Literal["bce", "mse", "log_mse"]
Watched = Literal["auc", "log_loss"]
Channels = tuple[Annotated[int, Field(ge=1)], ...]
Name = Annotated[str, Field(min_length=1)]
# the keys of a body layer that belong to one router or two
OF_ROUTER: dict[str, tuple[Router, ...]] = {
    "tied": ("softmax",),
    "top_k": ("softmax",),
    "own_share": ("linear",),
    "per_channel": ("linear",),
    "transform": ("hard_concrete",),
    "temperature": ("hard_concrete",),
}


class BodyLayer(Settings):
    """Experts, and the router that mixes them into one vector an output (or a branch of the layer above)."""

    router: Router = Field(
        default="one_hot",
        description="one_hot: an output reads its own expert, or the shared one; softmax: a gate (OMoE, MMoE, PLE); "
        "linear: free weights (cross-stitch); hard_concrete: connections that are learned to be there or not (SNR); "
        "matrix: cross connections (CoNet)",
    )
    experts: int = Field(default=0, ge=0, description="experts that every output may read")
    own_experts: int = Field(default=0, ge=0, description="experts of each output, which no other output reads")
    hidden: Channels = Field(default=(64,), min_length=1, description="channels of the layers of each expert")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="after each layer of an expert")
    tied: bool = Field(default=False, description="softmax: one gate for all outputs (OMoE)")
    top_k: int | None = Field(default=None, ge=1, description="softmax: the k largest gates alone (sparsely gated)")
    own_share: float = Field(
        default=0.9, gt=0, le=1, description="linear: the weight of an output's own expert at start"
    )
    per_channel: bool = Field(default=False, description="linear: a weight a channel, not one a pair")
    transform: bool = Field(
        default=False, description="hard_concrete: a matrix a connection (SNR-Trans), not an average"
    )
    temperature: float = Field(default=0.5, gt=0, description="hard_concrete: of the relaxation, its beta")
    penalty: float = Field(
        default=0.0,
        ge=0,
        description="weight of what joins the loss. one_hot: squared distances between own experts (soft sharing); "
        "hard_concrete: the expected number of connections (L0); matrix: the L1 norm of cross connections (SCoNet)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "BodyLayer":
        if not self.experts and not self.own_experts:
            raise ValueError("a layer has experts, own_experts or both: both are 0")
        for key, routers in OF_ROUTER.items():
            if self.router not in routers and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} belongs to router = {routers[0]!r}, and router is {self.router!r}")
        if self.router in ("linear", "matrix") and (self.experts or self.own_experts != 1):
            raise ValueError(f"router = {self.router!r} mixes one expert an output: set own_experts = 1, experts = 0")
        if self.router == "one_hot" and (self.experts, self.own_experts) not in ((1, 0), (0, 1)):
            raise ValueError("router = 'one_hot' has experts = 1 (shared by all outputs) or own_experts = 1")
        if self.router == "hard_concrete" and self.own_experts:
            raise ValueError("router = 'hard_concrete' connects all experts with all outputs: set own_experts = 0")
        if self.penalty and self.router in ("softmax", "linear"):
            raise ValueError(
                f"penalty belongs to the routers one_hot, hard_concrete and matrix, not to {self.router!r}"
            )
        if self.penalty and self.router == "one_hot" and not self.own_experts:
            raise ValueError("penalty ties own experts together: set own_experts = 1, experts = 0")
        return self


class Tower(Settings):
    """The layers between the body and a head's output."""

    hidden: Channels = Field(default=(32,), description="channels of each hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="after each hidden layer")


class Head(Settings):
    """One output of the network: a probability, or a value."""

    name: Name
    output: Literal["probability", "value"] = Field(default="probability", description="a logit, or a number as it is")
    layer: int = Field(default=-1, description="which layer of the body it reads: -1 the top, 0 the lowest")
    hidden: Channels | None = Field(default=None, description="channels of its tower, if others than those of [tower]")
    parents: tuple[Name, ...] = Field(default=(), description="heads before it in the list that it hangs on")
    link: Literal["features", "logits"] = Field(
        default="features",
        description="what it takes of its parents: their towers' features, beside its own, through one more layer "
        "(DBMTL), or their logits, added to its own (NMTR)",
    )


class Bias(Settings):
    """A small tower of its own on a few fields, whose logit is added to those of the heads."""

    fields: tuple[Name, ...] = Field(default=(), description="fields that it reads; none: all that the network reads")
    domain: bool = Field(default=False, description="read which domain the row is of as well")
    hidden: Channels = Field(default=(16,), description="channels of each hidden layer")
    heads: tuple[Name, ...] | None = Field(default=None, description="heads that it is added to; all, if not given")
    train_only: bool = Field(
        default=False,
        description="leave it out in prediction, and its fields out of the rest of the network: position, device",
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of the training rows in which each of its fields counts as missing"
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Bias":
        if self.train_only and not self.fields:
            raise ValueError("train_only = true: name the fields that are not known when one predicts")
        return self


class Objective(Settings):
    """A loss on one prediction."""

    of: Name = Field(description="the head, or the derived probability, that learns")
    label: Name = Field(description="the label that it learns, or a numeric field, which is then no input")
    loss: Loss = Field(
        default="bce", description="bce for probabilities; mse, or log_mse (of log(1 + label)) for values"
    )
    weight: float = Field(default=1.0, gt=0, description="of this loss in the sum")
    space: str | None = Field(default=None, description="rows that count, such as 'click == 1'; all, if not given")


class Measure(Settings):
    """What is measured of one prediction."""

    of: Name = Field(description="the head, or the derived probability, that is measured")
    label: Name = Field(description="the label that it is measured against")
    space: str | None = Field(default=None, description="rows that count, such as 'click == 1'; all, if not given")


class Domains(Settings):
    """Shared weights times weights a domain in body and towers (STAR, CIKM 2021)."""

    star: Literal["full", "low_rank", "per_channel"] = Field(
        default="full", description="shape of a domain's factors; full as published"
    )
    rank: int = Field(default=4, ge=1, description="of the factors of the shape low_rank")
    norm: bool = Field(default=True, description="partitioned normalisation of the input")


class Features(Settings):
    """What is read of an impression, and how it is embedded."""

    dim: int = Field(default=16, ge=1, description="channels of a field's embedding")
    without: tuple[Name, ...] = Field(default=(), description="fields of the data that the network does not read")
    minimum: int = Field(default=1, ge=1, description="values with fewer training rows count as unseen")
    vectors: int = Field(
        default=64,
        ge=1,
        description="channels to which the encoder's user and item vectors are mapped, with an encoder",
    )


class ImpressionTask(HistoryRecipe):
    """Probabilities of what happens after an impression, and how they are learned and measured."""

    kind: Literal["impressions"] = Field(description="labelled rows: who was shown what, where, and what came of it")
    features: Features = Features()
    body: tuple[BodyLayer, ...] = Field(default=(), description="layers of experts, the lowest first")
    tower: Tower = Tower()
    heads: tuple[Head, ...] = Field(
        default=(),
        description="outputs; without any, one a label of the data: click as ctr, conversion as cvr (of clicks) with "
        "their product ctcvr, every other label under its own name",
    )
    derived: dict[Name, str] = Field(
        default={}, description="products and sums of probabilities, such as ctcvr = 'ctr * cvr'"
    )
    objectives: tuple[Objective, ...] = Field(default=(), description="losses; they go with heads")
    measures: tuple[Measure, ...] = Field(default=(), description="what is measured; the objectives, if not given")
    balancer: BalancerName = Field(default="sum", description="how the losses become one update")
    balancing: Balancing = Balancing()
    biases: tuple[Bias, ...] = Field(default=(), description="towers whose logits are added")
    domains: Domains | None = Field(default=None, description="weights a domain (STAR); without it all domains share")
    row_weights: bool = Field(default=True, description="use the weights of the data, if it has some")
    readout: ReadoutKey = "encoder"
    train_readout: TrainReadoutKey = False
    max_length: MaxLengthKey = 50
    adapter: str = Field(default="none", min_length=1, description="adapter when none is asked for: a name or a .toml")
    metric: Watched = Field(
        default="auc",
        description="validation figure that early stopping watches: the mean over the measures, "
        "each by what its labels tell (a rare one weighs less)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "ImpressionTask":
        if not self.body:
            raise ValueError("body: name at least one layer of experts, with [[body]]")
        if bool(self.heads) != bool(self.objectives):
            raise ValueError("heads and objectives go together: give both, or neither (one head a label of the data)")
        if not self.heads and (self.derived or self.measures):
            raise ValueError("derived and measures speak of heads: name these, with [[heads]]")
        self._check_heads()
        check_balancing(self.balancer, self.balancing)
        known = {*(head.name for head in self.heads), *self.derived}
        for key, of in (
            ("objectives", [one.of for one in self.objectives]),
            ("measures", [m.of for m in self.measures]),
        ):
            if unknown := [name for name in of if name not in known]:
                raise ValueError(f"{key}: {unknown[0]!r} is neither a head nor derived; there are {', '.join(known)}")
        for bias in self.biases:
            if unknown := [name for name in bias.heads or () if self.heads and name not in known]:
                raise ValueError(f"biases: there is no head {unknown[0]!r}")
        return self

    def _check_heads(self) -> None:
        before: list[str] = []
        for head in self.heads:
            if head.name in before or head.name in self.derived:
                raise ValueError(f"heads: the name {head.name!r} stands twice")
            if unknown := [name for name in head.parents if name not in before]:
                raise ValueError(
                    f"heads: {head.name!r} hangs on {unknown[0]!r}, which must stand before it in the list"
                )
            if not -len(self.body) <= head.layer < len(self.body):
                raise ValueError(f"heads: {head.name!r} reads layer {head.layer}; the body has {len(self.body)}")
            before.append(head.name)
