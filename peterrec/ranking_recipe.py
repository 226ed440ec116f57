"""What the TOML of a task on items may say: which catalogue is ranked, from which histories, learned by which loss."""

from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from peterrec.history_recipe import HistoryRecipe, refuse_repeats
from peterrec.settings import Settings
from peterrec.user_split import UserSplit

Loss = Literal["softmax", "sampled", "bpr", "bce"]
NEGATIVES = {"sampled": 1024, "bpr": 16, "bce": 64}  # unless a recipe says otherwise
RankingMetric = Literal[
    "hr@5",
    "hr@10",
    "hr@20",
    "mrr@5",
    "mrr@10",
    "mrr@20",
    "ndcg@5",
    "ndcg@10",
    "ndcg@20",
    "mrr",
    "coverage@10",
    "long_tail@10",
    "hr@10 (100 sampled negatives; not comparable)",
]
WatchedRanking = Literal[
    "hr@5", "hr@10", "hr@20", "mrr@5", "mrr@10", "mrr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr"
]  # what early stopping may look at
REPORTED: tuple[RankingMetric, ...] = get_args(RankingMetric)[:-1]


class RankingHeadRecipe(Settings):
    """The layers between user vector and the table that scores items."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(), description="channels of each hidden layer")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="before each layer of the head")


class TargetItems(Settings):
    """Which items of one log are its target domain: those whose `column` of the items table holds `value`."""

    column: str = Field(min_length=1, description="column of the items table; its cells hold one value or several, a|b")
    value: str = Field(min_length=1, description="items that have this value are the target domain, others the source")


class RankingTask(HistoryRecipe):
    """Which items are recommended to whom, and how that is trained and measured."""

    kind: Literal["ranking"] = Field(description="items of a target domain, for users known in a source domain")
    target_items: TargetItems | None = Field(
        default=None, description="splits one log into source and target domain; without it there are two logs"
    )
    predict: Literal["last", "first", "all"] = Field(
        default="last", description="which target events of a validation or test user are predicted"
    )
    history: Literal["source", "mixed"] = Field(
        default="source",
        description="what is read of a user: source events, or the target events before the predicted one as well",
    )
    fewest_source: int = Field(
        default=1, ge=1, description="source events that a user must have before the predicted one"
    )
    positives: int = Field(default=8, ge=1, description="target events of a user to train on in an epoch, at most")
    windows: bool | None = Field(
        default=None,
        description="train on all target events of a window of a user's history from one pass over it; by default "
        "where the encoder is causal and read at the last position",
    )
    loss: Loss = Field(default="softmax", description="softmax: over the whole catalogue; the others sample negatives")
    negatives: int | None = Field(
        default=None,
        ge=1,
        description="sampled: items that a step shares (1024 if not given); bpr, bce: items for each example (16, 64)",
    )
    item_features: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="columns of the items table whose values add to an item's vector in the output table"
    )
    adapter: str = Field(
        default="serial", min_length=1, description="adapter when none is asked for: a name or a .toml"
    )
    head: RankingHeadRecipe = RankingHeadRecipe()
    metrics: tuple[RankingMetric, ...] = Field(default=REPORTED, min_length=1, description="figures to report")
    metric: WatchedRanking = Field(
        default="ndcg@10", description="validation figure that early stopping watches; one of `metrics`"
    )
    split: UserSplit = UserSplit()

    @model_validator(mode="after")
    def _consistent(self) -> "RankingTask":
        if self.metric not in self.metrics:
            raise ValueError(f"metric = {self.metric!r} is not one of metrics: {', '.join(self.metrics)}")
        refuse_repeats("metrics", self.metrics)
        refuse_repeats("item_features", self.item_features)
        if self.negatives is not None and self.loss == "softmax":
            raise ValueError("negatives belong to the losses sampled, bpr and bce; softmax is over the whole catalogue")
        return self

    @property
    def num_negatives(self) -> int:
        """How many negatives the loss samples; 0 for softmax."""
        return NEGATIVES.get(self.loss, 0) if self.negatives is None else self.negatives
