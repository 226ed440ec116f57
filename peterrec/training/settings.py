"""How a model is trained; the same settings serve pretraining and fine-tuning."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from peterrec.settings import Settings

Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["auto", "fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
TableUpdate = Literal["auto", "dense", "lazy_adam", "rowwise_adagrad"]


# Where things stand while training, and not what comes of it: a run goes on with other values of these.
PLACING = ("shard_tables",)

Moment = Annotated[float, Field(ge=0, lt=1)]


class TrainingSettings(Settings):
    """Settings of the training loop; unknown keys are errors."""

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int = Field(100, ge=1, description="At most so many passes over the training data.")
    learning_rate: float = Field(1e-3, gt=0, description="The highest learning rate, after the warm-up.")
    weight_decay: float = Field(
        0.01, ge=0, description="AdamW's decay of weight matrices; embeddings, norms and biases never decay."
    )
    betas: tuple[Moment, Moment] = Field((0.9, 0.999), description="AdamW's memory of the two moments.")
    table_update: TableUpdate = Field(
        "auto",
        description="How item tables are updated. dense: AdamW of all rows. lazy_adam, rowwise_adagrad: only the rows "
        "that a step looks up, at a cost that does not grow with the catalogue; updates of their own: other rows keep "
        "their moments, and an untied output, which dense decays, does not decay. auto: lazy_adam for large tables of "
        "which steps look up few rows (a sampled softmax; fine-tuning).",
    )
    warmup: int = Field(50, ge=0, description="Steps in which the learning rate grows linearly from 0.")
    schedule: Schedule = Field(
        "cosine", description="What the learning rate does after the warm-up until the last epoch."
    )
    clip: float = Field(1.0, ge=0, description="Largest global norm of the gradient; 0 does not clip.")
    patience: int = Field(
        5,
        ge=0,
        description="Stop after so many validations after the warm-up without a better one; 0 trains all epochs.",
    )
    validate_every: int = Field(1, ge=1, description="Epochs between validations; the last epoch always has one.")

    checkpoint_every: int = Field(
        500, ge=0, description="Steps between checkpoints; each epoch ends with one anyway. 0: only those."
    )
    micro_batch: int = Field(
        0,
        ge=0,
        description="Positions (users × length) computed at a time; the gradients of a batch are summed over such "
        "pieces. 0: as many as a processor's cache holds, on other devices all. Other numbers switch CUDA graphs off; "
        "models with batch norms compute a batch whole whatever it says.",
    )
    precision: Precision = Field("auto", description="auto: bf16 on a CUDA device that has it, else fp32.")
    device: Device = Field("auto", description="auto: a CUDA device if there is one, then mps, then cpu.")
    compile: bool = Field(False, description="Compile the model with torch.compile, on CUDA into CUDA graphs.")
    seed: int = Field(0, ge=0, lt=2**63, description="Everything random is drawn from it.")

    @property
    def few_shapes(self) -> bool:
        """Whether the batches of an epoch come in few shapes."""
        return False

    @property
    def keeps_last(self) -> bool:
        """Whether the weights of the last epoch are kept, and not those of the best validation."""
        return False
