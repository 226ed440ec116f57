"""What the TOML of a task on impressions may say: experts and routers, heads, objectives, and how they are measured."""

from typing import Literal

from pydantic import Field, model_validator

from peterrec.balancing_recipe import BalancerName, Balancing, check_balancing
from peterrec.body_recipe import BodyLayer, Channels
from peterrec.history_recipe import HistoryRecipe, MaxLengthKey, ReadoutKey, TrainReadoutKey
from peterrec.objective_recipe import Correlation, Match, Measure, Name, Objective
from peterrec.settings import Settings
from peterrec.term_recipe import Term

Watched = Literal["auc", "log_loss"]


class Tower(Settings):
    """The layers between the body and a head's output."""

    hidden: Channels = Field(default=(32,), description="channels of each hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="after each hidden layer")


class Head(Settings):
    """One output of the network: a probability, a value, or a score that only orders rows."""

    name: Name
    output: Literal["probability", "value", "score", "odds"] = Field(
        default="probability",
        description="of a logit, a probability or its odds e^logit, the expected time where positives weigh theirs; "
        "a number as it is; or a score: a number of which the order counts",
    )
    layer: int | Literal["none"] = Field(
        default=-1, description="which layer of the body it reads: -1 the top, 0 the lowest; none: its product alone"
    )
    fields: tuple[Name, ...] = Field(
        default=(), description="the fields that its own expert in the lowest layer reads (CoNet); all, if not given"
    )
    product: tuple[Name, ...] = Field(
        default=(),
        description="fields whose vectors, multiplied channel by channel, its output reads beside its tower (GMF)",
    )
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
    penalty: float = Field(
        default=0.0,
        ge=0,
        description="added to the loss: this times the squared length of a row's embeddings together, as matrix "
        "factorisation has it; keeps ids of few rows from learning these by heart",
    )


class ImpressionTask(HistoryRecipe):
    """Probabilities of what happens after an impression, and how they are learned and measured."""

    kind: Literal["impressions"] = Field(description="labelled rows: who was shown what, where, and what came of it")
    features: Features = Features()
    body: tuple[BodyLayer, ...] = Field(
        default=(), description="layers of experts, the lowest first; may be missing where there are terms"
    )
    terms: tuple[Term, ...] = Field(default=(), description="interactions of fields, logits added to those of heads")
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
    matches: tuple[Match, ...] = Field(default=(), description="two towers that learn a label beside, to train fields")
    correlation: Correlation | None = Field(
        default=None, description="what users took near each other, to train fields; without it there is no such loss"
    )
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
        deep = not self.heads or any(head.layer != "none" for head in self.heads)
        if deep and not self.body:
            self._check_without_body()
        if self.body and not deep:
            raise ValueError("body: no head reads it (layer = 'none' in all of [[heads]]); leave it out")
        if bool(self.heads) != bool(self.objectives):
            raise ValueError("heads and objectives go together: give both, or neither (one head a label of the data)")
        if not self.heads and (self.derived or self.measures):
            raise ValueError("derived and measures speak of heads: name these, with [[heads]]")
        if len(groups := sorted({one.group for one in self.objectives if one.group is not None})) > 1:
            named = " and ".join(groups)
            raise ValueError(f"objectives: a batch holds whole groups of one kind, and within is {named}")
        self._check_heads()
        check_balancing(self.balancer, self.balancing)
        known = {*(head.name for head in self.heads), *self.derived}
        learned = self._check_matches(known)
        for key, of in (
            ("objectives", [one.of for one in self.objectives if one.of not in learned]),
            ("measures", [m.of for m in self.measures]),
        ):
            if unknown := [name for name in of if name not in known]:
                raise ValueError(f"{key}: {unknown[0]!r} is neither a head nor derived; there are {', '.join(known)}")
        for bias in self.biases:
            if unknown := [name for name in bias.heads or () if self.heads and name not in known]:
                raise ValueError(f"biases: there is no head {unknown[0]!r}")
        for term in self.terms:
            if unknown := [name for name in term.heads or () if self.heads and name not in known]:
                raise ValueError(f"terms: there is no head {unknown[0]!r}")
        self._check_odds()
        return self

    def _check_matches(self, known: set[str]) -> set[str]:
        """The names of the matches; `known` are those of what is predicted."""
        names = [match.name for match in self.matches]
        for name in (*names, *(["correlation"] if self.correlation is not None else [])):
            if name in known or names.count(name) > 1 or (self.correlation is not None and "correlation" in names):
                raise ValueError(f"matches: the name {name!r} stands twice")
        for name in names:
            if name not in {one.of for one in self.objectives}:
                raise ValueError(f"matches: no loss reaches {name!r}; name it in one of [[objectives]]")
        return set(names)

    def _check_without_body(self) -> None:
        if not self.terms:
            raise ValueError("body: name at least one layer of experts, with [[body]], or terms, with [[terms]]")
        if (
            self.tower != Tower()
            or any(one.hidden for one in self.heads)
            or any(one.parents and one.link == "features" for one in self.heads)
        ):
            raise ValueError("without [[body]] a head is a constant and its terms: it has no tower and no features")
        if self.domains is not None:
            raise ValueError("domains gives body and towers weights a domain: name [[body]], or leave domains out")
        if self.features.vectors != Features.model_fields["vectors"].default:
            raise ValueError("features.vectors is for the body's input: name [[body]], or leave it out")

    def _check_odds(self) -> None:
        odds = {head.name for head in self.heads if head.output == "odds"}
        for one in self.objectives:
            if one.weight_by is not None and one.loss != "bce":
                raise ValueError(
                    f"objectives: weight_by belongs to loss = 'bce', and that of {one.of!r} is {one.loss!r}"
                )
        for one in self.measures:
            if one.weight_by is not None and one.of not in odds:
                raise ValueError(f"measures: weight_by is for a head with output = 'odds', which {one.of!r} is not")

    def _check_heads(self) -> None:
        before: list[str] = []
        for head in self.heads:
            if head.name in before or head.name in self.derived:
                raise ValueError(f"heads: the name {head.name!r} stands twice")
            if unknown := [name for name in head.parents if name not in before]:
                raise ValueError(
                    f"heads: {head.name!r} hangs on {unknown[0]!r}, which must stand before it in the list"
                )
            if len(head.product) == 1:
                raise ValueError(f"heads: the product of {head.name!r} has one field; name two or more, or none")
            if head.layer == "none":
                if not head.product or head.fields or head.hidden or (head.parents and head.link == "features"):
                    raise ValueError(
                        f"heads: {head.name!r} reads no layer of the body: give it a product, and neither fields nor "
                        "hidden layers; parents go with link = 'logits'"
                    )
            elif head.layer != -1 and not -len(self.body) <= head.layer < len(self.body):
                raise ValueError(f"heads: {head.name!r} reads layer {head.layer}; the body has {len(self.body)}")
            before.append(head.name)
