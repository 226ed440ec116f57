"""One model a task: a user encoder (frozen or not, with or without a tuner), a readout and a head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from peterrec.data.reading import Reading
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.moving_blocks import moving_blocks
from peterrec.encoders.readout import Readout, ending_together, valid_positions
from peterrec.encoders.user_reading import owners_of, pooled_users, reach_of, reading_of, states_of

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class TaskOutput(ModelOutput):
    """`loss` (scalar, with labels), `logits` `(B, C)`, `user_vector` `(B, D)`."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    user_vector: Tensor | None = None


class TaskModel(nn.Module):
    """Encoder, readout and classification head. `encoder` is a `UserEncoder`, or a `PeftModel` around one.

    `readout` is a reader of the task's own, or the kind of a fresh one of the top layer; the encoder's is not used.
    Histories are read in windows of `window` positions, by default in as long ones as the encoder takes.

    While the encoder's own weights are frozen it stays in evaluation mode, so that its dropout does not disturb what
    was pretrained. `class_weights` `(C,)` weigh the loss of each class.
    """

    def __init__(
        self,
        encoder: "UserEncoder | PeftModel",
        head: nn.Module,
        *,
        readout: str | Readout,
        window: int | None = None,
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = head
        if isinstance(readout, str):
            base = self.base_encoder
            readout = Readout(readout, channels=base.config.hidden_size, depth=len(base.blocks)).to(base.dtype)
        self.reader = readout
        self.window = window
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.convex = False  # whether item table and head are fitted as one regression, without steps
        self._quiet: list[nn.Module] = []  # dropouts of a frozen encoder

    @property
    def readout(self) -> str:
        """The kind of the readout."""
        return self.reader.kind

    @property
    def config(self) -> Any:
        """The encoder's configuration, which peft asks for."""
        return self.encoder.config

    def freeze_encoder(self) -> None:
        """Takes the encoder's weights out of training; a tuner added afterwards trains its own."""
        self.encoder.requires_grad_(False)
        self._quiet = [module for module in self.encoder.modules() if isinstance(module, nn.Dropout)]

    def train(self, mode: bool = True) -> "TaskModel":
        """Training mode; a frozen encoder's own dropouts stay off, those of tuners added later do not."""
        super().train(mode)
        for module in self._quiet:
            module.eval()
        return self

    @property
    def base_encoder(self) -> UserEncoder:
        """The encoder itself, with a tuner's layers inside if there is one."""
        return self.encoder if isinstance(self.encoder, UserEncoder) else self.encoder.get_base_model()  # type: ignore[return-value]

    @property
    def standing_blocks(self) -> int:
        """How many blocks, counted from the embeddings, stand still in training: the states above them never change.

        Nothing in or below them trains, and no dropout in or below them is on. All blocks: see `encoder_stands`.
        """
        moving = moving_blocks(self.encoder, self.base_encoder, quiet=self._quiet)
        return min([*moving, len(self.base_encoder.blocks)])

    @property
    def encoder_stands(self) -> bool:
        """Whether no state of the encoder ever changes in training."""
        return not moving_blocks(self.encoder, self.base_encoder, quiet=self._quiet)

    def reading(self, max_length: int) -> Reading:
        """How the last `max_length` events of a history are laid out for this model."""
        return reading_of(self.base_encoder, self.reader, max_length=max_length, window=self.window)

    def user_vectors(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        domain_ids: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Item rows `(B, L)`, with a domain each `(B,)` or none, to user vectors `(B, D)` by this task's readout.

        With `places` the rows are windows of the B users, as `peterrec.data.reading.Rows` has them.
        """
        return self.vectors_of_pooled(self.pooled_users(input_ids, attention_mask, domain_ids, places))

    def pooled_users(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        domain_ids: Tensor | None = None,
        places: Tensor | None = None,
        positions: int | None = None,
    ) -> Tensor:
        """As `user_vectors`, before layers are mixed: `(B, K, D)`; windows in parts of `positions` positions."""
        return pooled_users(
            self.encoder,
            self.base_encoder,
            self.reader,
            input_ids,
            valid_positions(input_ids, attention_mask),
            places=places,
            domain_ids=domain_ids,
            positions=positions,
        )

    def vectors_of_pooled(self, pooled: Tensor) -> Tensor:
        """Users `(B, K, D)` of `pooled_users` to vectors `(B, D)`."""
        return self.reader.mixed(pooled).to(self.base_encoder.dtype)

    @torch.no_grad()
    def states_above(self, blocks: int, input_ids: Tensor, domain_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States `(B, L, D)` above the first `blocks` blocks, without gradient, and where they are valid `(B, L)`.

        For item rows `(B, L)`; with a readout of the last position only the last states that it depends on.
        """
        base = self.base_encoder
        valid = valid_positions(input_ids)
        reach, positions = reach_of(base, self.reader), reach_of(base, self.reader, first_block=blocks)
        if reach is not None:
            input_ids, valid = ending_together(input_ids, valid, positions=reach)
        hidden, valid = base.embed(input_ids, valid)
        hidden = base.run_blocks(hidden, valid, stop=blocks, positions=positions, domain_ids=domain_ids)
        return hidden, valid[:, -hidden.shape[1] :]

    @torch.no_grad()
    def chosen_states(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The states `(B, L, K · D)` of item rows `(B, L)` in all layers that are read, and where they are valid."""
        valid = self.base_encoder.encoded(valid_positions(input_ids))
        return torch.cat(states_of(self.encoder, self.base_encoder, self.reader, input_ids, valid), dim=2), valid

    def vectors_of_states(
        self,
        states: Tensor,
        valid: Tensor,
        *,
        first_block: int,
        domain_ids: Tensor | None = None,
        input_ids: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """User vectors `(B, D)` from the states below block `first_block`, as in `forward`."""
        base, reader = self.base_encoder, self.reader
        if first_block == len(base.blocks):
            chosen, seen = list(states.split(base.config.hidden_size, dim=2)), valid
        else:
            valid = base.encoded(valid)
            if domain_ids is not None and places is not None:
                domain_ids = domain_ids.index_select(0, owners_of(places, rows=len(states)))
            positions = 1 if reach_of(base, reader) is not None else None
            output = self.encoder(
                inputs_embeds=states,
                attention_mask=valid,
                domain_ids=domain_ids,
                first_block=first_block,
                positions=positions,
                **({} if reader.reads_top_alone else {"output_hidden_states": True}),
            )
            chosen, seen = [output.last_hidden_state], valid if positions is None else valid[:, -1:]
            if not reader.reads_top_alone:
                above = [*output.hidden_states[:-1], output.last_hidden_state]
                chosen = [above[layer - first_block] for layer in reader.layers]
        if places is None:
            return self.vectors_of_pooled(reader.pooled(chosen, seen, input_ids))
        return self.vectors_of_pooled(reader.join(reader.pool(chosen, seen, input_ids), places))

    def classify(
        self, user_vector: Tensor, labels: Tensor | None = None, domain_ids: Tensor | None = None
    ) -> TaskOutput:
        """User vectors `(B, D)`, with labels `(B,)` for a loss and a domain each `(B,)` or none, to a TaskOutput."""
        logits = self.head(user_vector, domain_ids=domain_ids)
        loss = None if labels is None else F.cross_entropy(logits, labels, weight=self.class_weights)
        return TaskOutput(loss=loss, logits=logits, user_vector=user_vector)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Tensor | None = None,
        domain_ids: Tensor | None = None,
        states: Tensor | None = None,
        first_block: int = 0,
        places: Tensor | None = None,
    ) -> TaskOutput:
        """Item rows `(B, L)`, right padded (ending in TCL for the readout `tcl`), labels `(B,)` to a TaskOutput.

        With `places` `(B, M)` the rows are windows `(N, L)` of the B users, as `peterrec.data.reading.Rows` has them.
        In place of `input_ids`, `states` `(B, L, D)` below block `first_block`, as `StandingStates` lays them out:
        0 in `attention_mask` `(B, L)` is padding, on the left where the readout takes the last position; item weights
        need `input_ids` all the same.
        `output_attentions`, `output_hidden_states` and `return_dict` are accepted because generic callers, such as
        peft, pass them. Raises ValueError without either, or with `inputs_embeds`.
        """
        if states is not None:
            if attention_mask is None or (input_ids is not None and self.reader.item_weights is None):
                raise ValueError("Give states with their attention_mask, and no input_ids.")
            vectors = self.vectors_of_states(
                states,
                attention_mask,
                first_block=first_block,
                domain_ids=domain_ids,
                input_ids=input_ids,
                places=places,
            )
            return self.classify(vectors, labels, domain_ids)
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("A task model reads input_ids, not inputs_embeds.")
        windows = {} if places is None else {"places": places}
        return self.classify(self.user_vectors(input_ids, attention_mask, domain_ids, **windows), labels, domain_ids)
