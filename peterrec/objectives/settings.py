"""What an encoder learns from sequences, as settings; and which softmax serves a catalogue."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from peterrec.data.views import ViewKind
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import SettingsError
from peterrec.settings import Settings

# There a step with the exact softmax takes about five times as long as with the sampled one (a processor, D = 64, 16
# convolutions), and learns more. The device has no say, so that a resumed run has the same objective.
MOST_EXACT_ROWS = 20_000

Sampler = Literal["log_uniform", "popularity", "in_batch"]


Weight = Annotated[float, Field(ge=0)]

POSITION_LEVEL = ("next_item", "masked_item", "gap_filling")
USER_LEVEL = ("contrast", "bag")
SCORING = (*POSITION_LEVEL, "bag")

# what an option says something about; where none of these has weight, it would do nothing
OF = {
    "next_steps": ("next_item",),
    "tcl_rate": POSITION_LEVEL,
    "mask_rate": ("masked_item",),
    "last_rate": ("masked_item",),
    "gap_rate": ("gap_filling",),
    **dict.fromkeys(("views", "crop_share", "view_length", "group_users", "user_passes"), USER_LEVEL),
    "temperature": ("contrast",),
    "bag_table": ("bag",),
    **dict.fromkeys(("softmax", "sampler", "negatives", "negative_sets", "popularity_power"), SCORING),
}


class ObjectiveSettings(Settings):
    """What the encoder learns from sequences alone: a weighted sum of objectives; a weight of 0 leaves one out."""

    next_item: Weight = Field(
        1.0, description="Weight of: predict the next item at every position; for a causal encoder."
    )
    masked_item: Weight = Field(
        0.0, description="Weight of: predict masked items from both sides; for a two-sided encoder."
    )
    gap_filling: Weight = Field(
        0.0,
        description="Weight of: fill the gaps of a history, knowing what stood in those before; for the encoder grec.",
    )
    contrast: Weight = Field(
        0.0, description="Weight of: find a user among others by the vectors of two views of one history."
    )
    bag: Weight = Field(
        0.0, description="Weight of: predict the items of one view of a history from the vector of the other."
    )
    next_steps: int = Field(
        1, ge=1, description="With next_item: from each state the next so many items are predicted, all alike."
    )
    tcl_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the windows that have a TCL row, which is trained so: behind a random event with "
        "next_item, else at the end.",
    )
    mask_rate: float = Field(0.3, gt=0, le=1, description="Share of the events that masked_item masks.")
    last_rate: float = Field(
        0.1,
        ge=0,
        le=1,
        description="With masked_item: share of the windows whose last event is masked in any case, as inference asks.",
    )
    gap_rate: float = Field(0.5, gt=0, le=1, description="Share of the events that gap_filling takes out.")
    views: ViewKind = Field(
        "halves",
        description="The two views of a user: disjoint random halves of the events, two random contiguous crops, or "
        "all events twice under other dropout. With bag: halves.",
    )
    crop_share: float = Field(0.5, gt=0, le=1, description="Share of a history that a crop takes.")
    view_length: int = Field(
        512, ge=2, description="Most events of a user in the views; of more, a random subset, or a shorter crop."
    )
    temperature: float = Field(
        0.1, gt=0, description="Of the contrast; the lower, the more do the most similar users count."
    )
    group_users: int = Field(
        512, ge=2, description="Users whose views compete with each other; one process computes such a group whole."
    )
    user_passes: float = Field(
        1.0, gt=0, description="With contrast and bag: how often an epoch passes over the users."
    )
    bag_table: Literal["own", "tied"] = Field(
        "own", description="What scores the items of bag: a table of its own, or the encoder's item table."
    )
    watch: Literal["auto", "ndcg@10", "match@10", "bag_log_likelihood"] = Field(
        "auto",
        description="What early stopping watches. match@10: how often a validation user's vector from one half of the "
        "history is among the ten nearest to that from the other half. bag_log_likelihood: of the items of one half, "
        "given the other. auto: ndcg@10 where items at positions are predicted, else bag_log_likelihood with bag, else "
        "match@10.",
    )
    softmax: Literal["auto", "exact", "sampled"] = Field(
        "auto",
        description="exact: over all items; sampled: over the target and negatives that many targets share, in "
        "training alone. auto: sampled where there are more than 20,000 items.",
    )
    sampler: Sampler = Field(
        "log_uniform",
        description="How negatives are drawn: log_uniform by frequency rank; popularity by a power of the counts; "
        "in_batch among the targets of the batch, which must have many users to be like draws by popularity.",
    )
    negatives: int = Field(
        1024, ge=1, description="Negatives that a target competes with: so many distinct ones, on average."
    )
    negative_sets: int = Field(
        8,
        ge=1,
        description="Sets of negatives a batch, to which its windows are dealt out. More look up more rows and make "
        "the gradient steadier; the products cost the same.",
    )
    popularity_power: float = Field(
        0.75, ge=0, description="For the popularity sampler; 0 draws all items alike, 1 as often as they occur."
    )

    @model_validator(mode="before")
    @classmethod
    def _no_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" in values:
            raise ValueError(
                "objective.name is gone: objectives have weights now, next_item = 1.0 for what was name = "
                '"next_item"; leave the name out'
            )
        return values

    @model_validator(mode="after")
    def _learns_something(self) -> "ObjectiveSettings":
        if not self.weights:
            names = ", ".join((*POSITION_LEVEL, *USER_LEVEL))
            raise ValueError(f"all weights are 0, so there is nothing to learn; give one of {names} a weight above 0")
        return self

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> "ObjectiveSettings":
        # by value: a run's own settings, written whole, are read back
        watches_users = self.watch in ("match@10", "bag_log_likelihood")
        for name, having in OF.items():
            value, default = getattr(self, name), type(self).model_fields[name].default
            halves = name == "view_length" and watches_users
            if value != default and not halves and not self.weights.keys() & set(having):
                raise ValueError(
                    f"{name} = {value!r} is for {' or '.join(having)}, which have no weight. Leave it out, or give "
                    f"{having[0]} a weight above 0"
                )
        if self.bag and self.views != "halves":
            raise ValueError(
                f"bag = {self.bag:g} with views = {self.views!r}: the items to be predicted would stand in the view "
                "that predicts them. Set views = 'halves', or bag = 0"
            )
        if self.watch == "bag_log_likelihood" and not self.bag:
            raise ValueError("watch = 'bag_log_likelihood' is a figure of bag, which has no weight. Set watch = 'auto'")
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weights above 0, by objective."""
        found = {name: float(getattr(self, name)) for name in (*POSITION_LEVEL, *USER_LEVEL)}
        return {name: weight for name, weight in found.items() if weight > 0}

    @property
    def position_level(self) -> tuple[str, ...]:
        """The objectives with weight that predict items at positions of windows."""
        return tuple(name for name in POSITION_LEVEL if name in self.weights)

    @property
    def user_level(self) -> tuple[str, ...]:
        """The objectives with weight that compare users by two views of each."""
        return tuple(name for name in USER_LEVEL if name in self.weights)

    @property
    def metric(self) -> str:
        """The validation figure that early stopping watches."""
        if self.watch != "auto":
            return self.watch
        if self.position_level:
            return "ndcg@10"
        return "bag_log_likelihood" if self.bag else "match@10"

    @property
    def scores_items(self) -> bool:
        """Whether a softmax over items is part of it."""
        return any(name != "contrast" for name in self.weights)

    @property
    def scores_by_item_table(self) -> bool:
        """Whether that softmax is by the encoder's table."""
        own = {"contrast", "bag"} if self.bag_table == "own" else {"contrast"}
        return bool(self.weights.keys() - own)

    def sampled(self, rows: int) -> bool:
        """Whether the softmax over a table of `rows` rows is sampled.

        Raises SettingsError where it is asked for and there are no more items than negatives.
        """
        items = rows - FIRST_ITEM
        if self.softmax == "sampled" and self.negatives >= items:
            raise SettingsError(
                f"objective.negatives = {self.negatives:,} is no sample of {items:,} items; lower it, or set "
                "objective.softmax = exact."
            )
        return self.softmax == "sampled" or (
            self.softmax == "auto" and rows > MOST_EXACT_ROWS and self.negatives < items
        )

    def combination(self) -> str:
        """The weighted sum in words, as a line for the log."""
        told = " + ".join(f"{weight:g} × {name}" for name, weight in self.weights.items())
        if any(name in USER_LEVEL for name in self.weights):
            told += (
                f"; views: {self.views} of at most {self.view_length:,} events, groups of {self.group_users:,} users"
            )
        return f"Loss: {told}."

    def describe(self, rows: int) -> str:
        """The choice of `sampled` and its reason, as a line for the log; raises what it raises."""
        sampled = self.sampled(rows)
        if self.softmax != "auto":
            reason = "as objective.softmax says"
        elif sampled:
            reason = f"exact would be slow for more than {MOST_EXACT_ROWS:,} rows"
        elif rows > MOST_EXACT_ROWS:
            reason = f"objective.negatives = {self.negatives:,} would be no sample of them"
        else:
            reason = f"quick enough up to {MOST_EXACT_ROWS:,} rows"
        kind = (
            f"sampled, {self.negatives:,} negatives by {self.sampler}, {self.negative_sets} sets a batch"
            if sampled
            else "exact"
        )
        return f"Softmax over {rows:,} rows: {kind} ({reason})."
