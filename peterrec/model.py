"""One model a task: a user encoder (frozen or not, with or without a tuner), a readout and a head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import ending_together, read_out, read_users, valid_positions

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

    While the encoder's own weights are frozen it stays in evaluation mode, so that its dropout does not disturb what
    was pretrained. `class_weights` `(C,)` weigh the loss of each class.
    """

    def __init__(
        self,
        encoder: "UserEncoder | PeftModel",
        head: nn.Module,
        *,
        readout: str,
        class_weights: Tensor | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.readout = readout
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self._quiet: list[nn.Module] = []  # dropouts of a frozen encoder

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

        Nothing in or below them trains, and no dropout in or below them is on. All blocks: the user vectors stand.
        """
        base = self.base_encoder
        blocks = {id(p): number for number, block in enumerate(base.blocks) for p in block.parameters()}
        unread = {id(p) for p in base.output.parameters()} if base.output is not None else set()
        # a weight outside the blocks (item table, a prompt, what a tuner shares between blocks) may reach the lowest
        trained = [blocks.get(id(p), 0) for p in self.encoder.parameters() if p.requires_grad and id(p) not in unread]
        quiet = {id(module) for module in self._quiet}

        def drops(module: nn.Module) -> bool:
            return any(
                isinstance(inner, nn.Dropout) and inner.p > 0 and id(inner) not in quiet for inner in module.modules()
            )

        if drops(base.embed_dropout):
            return 0
        dropping = [number for number, block in enumerate(base.blocks) if drops(block)]
        return min([*trained, *dropping, len(base.blocks)])

    def events_read(self, max_length: int) -> int:
        """How many of a user's last `max_length` events the user vector depends on."""
        return self.base_encoder.events_read(max_length, readout=self.readout)

    def user_vectors(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, domain_ids: Tensor | None = None
    ) -> Tensor:
        """Item rows `(B, L)`, with a domain each `(B,)` or none, to user vectors `(B, D)` by this task's readout."""
        return read_users(
            self.encoder,
            input_ids,
            valid_positions(input_ids, attention_mask),
            readout=self.readout,
            reach=self.base_encoder.reach(self.readout),
            domain_ids=domain_ids,
        )

    @torch.no_grad()
    def states_above(self, blocks: int, input_ids: Tensor, domain_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States `(B, L, D)` above the first `blocks` blocks, without gradient, and where they are valid `(B, L)`.

        For item rows `(B, L)`; with a readout of the last position only the last states that it depends on.
        """
        base = self.base_encoder
        valid = valid_positions(input_ids)
        reach, positions = base.reach(self.readout), base.reach(self.readout, first_block=blocks)
        if reach is not None:
            input_ids, valid = ending_together(input_ids, valid, positions=reach)
        hidden, valid = base.embed(input_ids, valid)
        hidden = base.run_blocks(hidden, valid, stop=blocks, positions=positions, domain_ids=domain_ids)
        return hidden, valid[:, -hidden.shape[1] :]

    def vectors_of_states(
        self, states: Tensor, valid: Tensor, *, first_block: int, domain_ids: Tensor | None = None
    ) -> Tensor:
        """User vectors `(B, D)` from the states below block `first_block`, as in `forward`."""
        positions = 1 if self.base_encoder.reach(self.readout) is not None else None
        output = self.encoder(
            inputs_embeds=states,
            attention_mask=valid,
            domain_ids=domain_ids,
            first_block=first_block,
            positions=positions,
        )
        return read_out(output.last_hidden_state, valid if positions is None else valid[:, -1:], self.readout)

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
    ) -> TaskOutput:
        """Item rows `(B, L)`, right padded (ending in TCL for the readout `tcl`), labels `(B,)` to a TaskOutput.

        In place of `input_ids`, `states` `(B, L, D)` below block `first_block`, as `StandingStates` lays them out:
        0 in `attention_mask` `(B, L)` is padding, on the left where the readout takes the last position.
        `output_attentions`, `output_hidden_states` and `return_dict` are accepted because generic callers, such as
        peft, pass them. Raises ValueError without either, or with `inputs_embeds`.
        """
        if states is not None:
            if input_ids is not None or attention_mask is None:
                raise ValueError("Give states with their attention_mask, and no input_ids.")
            vectors = self.vectors_of_states(states, attention_mask, first_block=first_block, domain_ids=domain_ids)
            return self.classify(vectors, labels, domain_ids)
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("A task model reads input_ids, not inputs_embeds.")
        return self.classify(self.user_vectors(input_ids, attention_mask, domain_ids), labels, domain_ids)
