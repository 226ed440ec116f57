"""What the TOML of a task on users may say: which label is predicted, and how that is trained and measured."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from peterrec.adapter_recipe import Events, Layers, Readout, check_readout
from peterrec.settings import Settings

Watched = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc"]  # the larger, the better
Metric = Literal["accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error"]
METRICS: tuple[Metric, ...] = get_args(Metric)
AUTO = "auto"  # the adapter by the kind of the encoder; `none` is an adapter's name


class HeadRecipe(Settings):
    """The layers between user vector and classes."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), description="channels of each hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="before each layer of the head")
    fit: Literal["gradient", "newton"] = Field(
        default="gradient",
        description="newton: it starts as the logistic regression on the frozen user vectors, its penalty found by "
        "cross-validation; what else trains goes on from there",
    )

    @model_validator(mode="after")
    def _fits(self) -> "HeadRecipe":
        if self.fit == "newton" and self.hidden:
            raise ValueError("fit = 'newton' is for a head without hidden layers: set hidden = []")
        return self


class UserSplit(Settings):
    """Which users train, validate and test."""

    by: Literal["user"] = Field(default="user", description="each user is in one part")
    fractions: tuple[float, float, float] = Field(
        default=(0.70, 0.03, 0.27), description="shares of training, validation and test users"
    )

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
            raise ValueError("expected three shares above 0 that sum to 1")
        return fractions


class SplitRecipe(UserSplit):
    """Which labelled users train, validate and test."""

    stratified: bool = Field(default=True, description="keep the shares of the classes in each part")


def _label(label: object) -> object:
    # classes are text, as in the table of users; `classes = [1, 18, 25]` is what one writes
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


class TaskRecipe(Settings):
    """What is predicted for each user, and how that is trained and measured."""

    name: str
    kind: Literal["classification"] = Field(default="classification", description="one of several classes a user")
    column: str = Field(min_length=1, description="label column in the table of users")
    classes: tuple[Annotated[str, BeforeValidator(_label)], ...] | None = Field(
        default=None,
        min_length=2,
        description="the classes in order; otherwise those found in the data, sorted",
    )
    readout: Readout = Field(
        default="mean", description="how hidden states become a user vector; encoder: as it was pretrained"
    )
    layers: Layers | None = Field(
        default=None, description="the layers whose states are mixed, 0 the embeddings, -1 the top ([-1] if not given)"
    )
    item_weights: bool | None = Field(default=None, description="learn a weight an item (readout attention)")
    train_readout: bool = Field(default=True, description="train what the readout learns, beside the head")
    adapter: str = Field(
        default=AUTO,
        min_length=1,
        description="adapter when none is asked for: a name or a .toml; auto: serial, or items_convex on an encoder "
        "without blocks",
    )
    class_weights: bool = Field(default=False, description="weight classes by their inverse frequency in the loss")
    head: HeadRecipe = HeadRecipe()
    metrics: tuple[Metric, ...] = Field(default=METRICS, min_length=1, description="figures to report")
    metric: Watched = Field(
        default="accuracy", description="validation figure that early stopping watches; one of `metrics`"
    )
    split: SplitRecipe = SplitRecipe()
    max_length: Events = Field(default=200, description="events of the history that are read, the last ones, or all")
    window: int | None = Field(
        default=None, ge=1, description="positions that are encoded together; the readout is over all windows"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, description="one run a seed")
    training: dict[str, bool | int | float | str] = Field(default={}, description="training settings of this task")

    @model_validator(mode="after")
    def _consistent(self) -> "TaskRecipe":
        if self.metric not in self.metrics:
            raise ValueError(f"metric = {self.metric!r} is not one of metrics: {', '.join(self.metrics)}")
        for key, values in (
            ("metrics", self.metrics),
            ("classes", self.classes or ()),
            ("seeds", self.seeds),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{key} names one value twice: {', '.join(map(str, values))}")
        check_readout(self.readout, layers=self.layers, item_weights=self.item_weights)
        return self
