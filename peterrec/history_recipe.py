"""What the TOML of any task may say: how histories are read, with which seeds and settings it trains."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, model_validator

from peterrec.adapter_recipe import Events, Layers, Readout, check_readout
from peterrec.settings import Settings

# keys whose default is the kind's own
ReadoutKey = Annotated[
    Readout, Field(description="how hidden states become a user vector; encoder: as it was pretrained")
]
TrainReadoutKey = Annotated[bool, Field(description="train what the readout learns, beside the head")]
MaxLengthKey = Annotated[Events, Field(description="events of the history that are read, the last ones, or all")]


class HistoryRecipe(Settings):
    """What tasks of every kind say: their name, how they read a user's history, how they train."""

    name: str
    readout: ReadoutKey = "encoder"
    layers: Layers | None = Field(
        default=None, description="the layers whose states are mixed, 0 the embeddings, -1 the top ([-1] if not given)"
    )
    item_weights: bool | None = Field(default=None, description="learn a weight an item (readout attention)")
    train_readout: TrainReadoutKey = True
    max_length: MaxLengthKey = 200
    window: int | None = Field(
        default=None, ge=1, description="positions that are encoded together; the readout is over all windows"
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1, description="one run a seed")
    training: dict[str, bool | int | float | str] = Field(default={}, description="training settings of this task")

    @model_validator(mode="after")
    def _reads(self) -> "HistoryRecipe":
        refuse_repeats("seeds", self.seeds)
        check_readout(self.readout, layers=self.layers, item_weights=self.item_weights)
        return self


def refuse_repeats(key: str, values: Sequence[object]) -> None:
    """Raises ValueError where `values`, which stand under `key`, name one twice."""
    if len(set(values)) < len(values):
        raise ValueError(f"{key} names one value twice: {', '.join(map(str, values))}")
