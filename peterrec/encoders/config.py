"""What the configurations of all user encoders have in common, as `transformers` configurations."""
# No `from __future__ import annotations` here: `strict` would then not check the types of the fields.

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from peterrec.encoders.readout import READOUTS, layer_numbers
from peterrec.errors import SettingsError


@strict
class UserEncoderConfig(PreTrainedConfig):
    """Base of the configurations: the fields that every encoder has. A subclass adds its `model_type` and its shape.

    vocab_size: rows of the item table, the three special rows (PAD 0, MASK 1, TCL 2) among them.
    hidden_size: channels D. max_length: events read at training.
    readout: how hidden states become the user vector. readout_layers: which layers it mixes, 0 being the embeddings,
    1 the first block, -1 the top. readout_item_weights: attention learns a weight an item as well.
    tie_output: score items with the embedding table, or with a table of their own.
    vocabulary_fingerprint: which item vocabulary the rows belong to.
    ancestors: revisions of the encoders that this one was continued from, oldest first. preserved: those of them whose
    weights still stand in it to the bit, further rows aside.
    """

    vocab_size: int = 1003
    hidden_size: int = 64
    dropout: float = 0.0
    tie_output: bool = True
    max_length: int = 200
    readout: str = "mean"
    readout_layers: list[int] | tuple[int, ...] = (-1,)
    readout_item_weights: bool = False
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    vocabulary_fingerprint: str = ""
    ancestors: list[str] | tuple[str, ...] = ()
    preserved: list[str] | tuple[str, ...] = ()
    pad_token_id: int | None = 0

    @property
    def causal(self) -> bool:
        """Whether the state at a position does not depend on which events follow it.

        It may depend on how many do, where positions count from the end (SASRec).
        """
        return True

    @property
    def depth(self) -> int:
        """How many blocks the encoder runs; layers are numbered 0 (the embeddings) to this."""
        raise NotImplementedError

    def validate_architecture(self) -> None:
        """Raises ValueError where the numbers do not fit together."""
        if self.vocab_size < 4 or self.hidden_size < 2 or self.max_length < 1:
            raise ValueError("vocab_size must be >= 4, hidden_size >= 2, max_length >= 1.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}.")
        if self.readout not in READOUTS:
            raise ValueError(f"readout must be one of {', '.join(READOUTS)}, got {self.readout!r}.")
        if self.readout_item_weights and self.readout != "attention":
            raise ValueError(f"readout_item_weights belong to the readout attention, and readout is {self.readout!r}.")
        try:
            layer_numbers(self.readout_layers, depth=self.depth, name="readout_layers")
        except SettingsError as error:
            raise ValueError(str(error)) from None
