"""What the TOML of a task on users may say: which label is predicted, and how that is trained and measured."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from peterrec.history_recipe import HistoryRecipe, ReadoutKey, refuse_repeats
from peterrec.settings import Settings
from peterrec.user_split import UserSplit

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


class SplitRecipe(UserSplit):
    """Which labelled users train, validate and test."""

    stratified: bool = Field(default=True, description="keep the shares of the classes in each part")


def _label(label: object) -> object:
    # classes are text, as in the table of users; `classes = [1, 18, 25]` is what one writes
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


class TaskRecipe(HistoryRecipe):
    """What is predicted for each user, and how that is trained and measured."""

    kind: Literal["classification"] = Field(default="classification", description="one of several classes a user")
    column: str = Field(min_length=1, description="label column in the table of users")
    classes: tuple[Annotated[str, BeforeValidator(_label)], ...] | None = Field(
        default=None,
        min_length=2,
        description="the classes in order; otherwise those found in the data, sorted",
    )
    readout: ReadoutKey = "mean"
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

    @model_validator(mode="after")
    def _consistent(self) -> "TaskRecipe":
        if self.metric not in self.metrics:
            raise ValueError(f"metric = {self.metric!r} is not one of metrics: {', '.join(self.metrics)}")
        refuse_repeats("metrics", self.metrics)
        refuse_repeats("classes", self.classes or ())
        return self
