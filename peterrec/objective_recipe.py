"""What the TOML of a task on impressions may say of what it learns and what is measured."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from peterrec.body_recipe import Channels
from peterrec.settings import Settings

Loss = Literal["bce", "mse", "log_mse", "bpr", "listwise"]
GroupLoss = Literal["bpr", "listwise"]
Name = Annotated[str, Field(min_length=1)]


class Objective(Settings):
    """A loss on one prediction."""

    of: Name = Field(description="the head, or the derived probability, that learns")
    label: Name = Field(description="the label that it learns, or a numeric field, which is then no input")
    loss: Loss = Field(
        default="bce",
        description="bce for probabilities; mse, or log_mse (of log(1 + label)) for values; for scores bpr (all pairs "
        "of a positive and a negative row of a group) or listwise (softmax over a group)",
    )
    within: Name | None = Field(
        default=None,
        description="bpr, listwise: what makes a group of rows: user, time (of a user), or a categorical field, which "
        "is then no input; user, if not given",
    )
    weight: float = Field(default=1.0, gt=0, description="of this loss in the sum")
    weight_by: Name | None = Field(
        default=None,
        description="bce: a label or numeric field, such as a time watched, that rows of label 1 weigh; others weigh 1",
    )
    space: str | None = Field(default=None, description="rows that count, such as 'click == 1'; all, if not given")

    @model_validator(mode="after")
    def _consistent(self) -> "Objective":
        if self.within is not None and self.loss not in get_args(GroupLoss):
            raise ValueError(f"within belongs to the losses bpr and listwise, not to {self.loss!r}")
        return self

    @property
    def group(self) -> str | None:
        """What makes a group of rows; None for losses of single rows."""
        return (self.within or "user") if self.loss in get_args(GroupLoss) else None


class Measure(Settings):
    """What is measured of one prediction."""

    of: Name = Field(description="the head, or the derived probability, that is measured")
    label: Name = Field(description="the label that it is measured against")
    weight_by: Name | None = Field(
        default=None, description="of odds: measured against this where the label is 1, against 0 where it is 0"
    )
    space: str | None = Field(default=None, description="rows that count, such as 'click == 1'; all, if not given")


class Match(Settings):
    """Two towers on fields, whose vectors' product is the logit of a label; in training alone (DeepMCP)."""

    name: Name = Field(description="how objectives call it")
    left: tuple[Name, ...] = Field(min_length=1, description="fields of the user's tower")
    right: tuple[Name, ...] = Field(min_length=1, description="fields of the item's tower")
    hidden: Channels = Field(default=(64, 32), min_length=1, description="channels of both; the last layer is tanh")


class Correlation(Settings):
    """Skip-gram over the items that a user took, one after the other; in training alone (DeepMCP)."""

    fields: tuple[Name, ...] = Field(min_length=1, description="fields of the item, which its tower reads")
    label: Name = Field(default="click", description="rows where it is 1 are the user's sequence, in order of time")
    hidden: Channels = Field(
        default=(64, 32), min_length=1, description="channels of the tower; the last layer is tanh"
    )
    window: int = Field(default=2, ge=1, description="rows before and behind that count as near")
    negatives: int = Field(default=4, ge=1, description="drawn rows for each pair")
    weight: float = Field(default=0.1, gt=0, description="of this loss in the sum")
