"""What an encoder learns from sequences, as settings; and which softmax serves a catalogue."""

from typing import Literal

from pydantic import Field

from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import SettingsError
from peterrec.settings import Settings

# There a step with the exact softmax takes about five times as long as with the sampled one (a processor, D = 64, 16
# convolutions), and learns more. The device has no say, so that a resumed run has the same objective.
MOST_EXACT_ROWS = 20_000

Sampler = Literal["log_uniform", "popularity", "in_batch"]


class ObjectiveSettings(Settings):
    """What the encoder learns from sequences alone."""

    name: Literal["next_item"] = Field("next_item", description="Predict the next item at every position.")
    tcl_rate: float = Field(
        0.1, ge=0, le=1, description="Share of windows with a TCL row at a random cut, which is trained so."
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
    negatives: int = Field(1024, ge=1, description="Negatives of a target: distinct ones, on average.")
    negative_sets: int = Field(
        8,
        ge=1,
        description="Sets of negatives a batch, to which its windows are dealt out. More look up more rows and make "
        "the gradient steadier; the products cost the same.",
    )
    popularity_power: float = Field(
        0.75, ge=0, description="For the popularity sampler; 0 draws all items alike, 1 as often as they occur."
    )

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
