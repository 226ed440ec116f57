"""How pretraining is trained."""

from typing import Literal

from pydantic import Field

from peterrec.training.settings import TrainingSettings


class PretrainingSettings(TrainingSettings):
    """Training settings of pretraining."""

    epochs: int = Field(40, ge=1, description="At most so many passes over the training data.")
    positions: int = Field(
        6400,
        ge=1,
        description="Users × length of a batch at most, padding included; a small log is cut into 20 batches an epoch.",
    )
    validation_users: int = Field(
        2000, ge=1, description="Users that each validation looks at, the same ones in every epoch."
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="The weights that are kept: of the best validation, or of the last epoch, when patience is not "
        "asked. Of encoders that learn from views of users, attributes were easier to read after more epochs, of new "
        "users too, long after the watched figures had begun to fall.",
    )
    static_shapes: bool | Literal["auto"] = Field(
        "auto",
        description="Round lengths up so that batches come in few shapes, which CUDA graphs need; it pads more. auto: "
        "where compile is on.",
    )
    shard_tables: bool = Field(
        False,
        description="Share the rows of the item table, and of an untied output, out over the processes of a launch, "
        "each with its part of the optimiser's state; for a sampled softmax.",
    )

    @property
    def few_shapes(self) -> bool:
        """Whether batches come in few shapes. The device has no say: resumed elsewhere, the batches are the same."""
        return self.compile if self.static_shapes == "auto" else self.static_shapes

    @property
    def keeps_last(self) -> bool:
        """Whether the weights of the last epoch are kept, and not those of the best validation."""
        return self.keep == "last"
