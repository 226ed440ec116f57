"""One model a task: a user encoder (frozen or not, with or without a tuner), a readout and a head."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from peterrec.data.vocabulary import PAD
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import read_out

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

    def user_vectors(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, domain_ids: Tensor | None = None
    ) -> Tensor:
        """Item rows `(B, L)`, with a domain each `(B,)` or none, to user vectors `(B, D)` by this task's readout."""
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask, domain_ids=domain_ids)
        valid = input_ids.ne(PAD)
        if attention_mask is not None:
            valid = valid & attention_mask.bool()
        return read_out(output.last_hidden_state, valid, self.readout)

    def classify(self, user_vector: Tensor, labels: Tensor | None = None) -> TaskOutput:
        """User vectors `(B, D)`, with labels `(B,)` for a loss, to a TaskOutput."""
        logits = self.head(user_vector)
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
    ) -> TaskOutput:
        """Item rows `(B, L)`, right padded (ending in TCL for the readout `tcl`), labels `(B,)` to a TaskOutput.

        `output_attentions`, `output_hidden_states` and `return_dict` are accepted because generic callers, such as
        peft, pass them. Raises ValueError without `input_ids`, which say where the padding is.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("A task model reads input_ids, not inputs_embeds.")
        return self.classify(self.user_vectors(input_ids, attention_mask, domain_ids), labels)
