"""What every user encoder is: item rows in, one hidden state a position and one vector a user out."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from peterrec.data.vocabulary import PAD
from peterrec.encoders.readout import read_out


@dataclass
class UserEncoderOutput(ModelOutput):
    """`last_hidden_state` `(B, L, D)`, `user_vector` `(B, D)`, and, when asked for, `hidden_states`:
    one `(B, L, D)` a layer, the embeddings first."""

    last_hidden_state: Tensor | None = None
    user_vector: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class UserEncoder(PreTrainedModel):
    """Base of the encoders: embeds, masks padding exactly, runs `self.blocks`, reads out.

    The output at valid positions does not depend on how far, or on which side, a batch was padded.
    """

    config: Any
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    embed_tokens: nn.Embedding
    embed_dropout: nn.Dropout
    blocks: nn.ModuleList
    output: nn.Linear | None

    def get_input_embeddings(self) -> nn.Module:
        """The item table."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the item table."""
        self.embed_tokens = value  # type: ignore[assignment]

    @property
    def is_gradient_checkpointing(self) -> bool:
        """The old name, which peft 0.21 still asks for and transformers 5 warns about."""
        return self.is_activation_checkpointing

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def score_table(self) -> Tensor:
        """The table `(V, D)` whose product with a hidden state scores items (special rows included)."""
        table = self.embed_tokens if self.output is None else self.output
        return table.weight

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        domain_ids: Tensor | None = None,
    ) -> UserEncoderOutput | tuple:
        """Encodes item rows `input_ids` `(B, L)`; PAD rows and positions where `attention_mask` is 0 are padding.

        With `inputs_embeds` `(B, L, D)` in place of `input_ids`, `attention_mask` says where the padding is.
        `domain_ids` `(B,)` is handed to every layer, where a tuner may read it (-1: a domain that is not known).
        `output_attentions` is accepted because generic callers pass it; there are none to return.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if input_ids is not None:
            valid = input_ids.ne(PAD)
            hidden = self.embed_tokens(input_ids)
            if attention_mask is not None:
                valid = valid & attention_mask.bool()
        else:
            assert inputs_embeds is not None
            hidden = inputs_embeds
            valid = (
                torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
                if attention_mask is None
                else attention_mask.bool()
            )
        mask = valid.unsqueeze(-1).to(hidden.dtype)
        hidden = self.embed_dropout(hidden) * mask
        states = [hidden]
        for block in self.blocks:
            hidden = block(hidden, mask, domain_ids)
            if output_hidden_states:
                states.append(hidden * mask)
        hidden = hidden * mask
        output = UserEncoderOutput(
            last_hidden_state=hidden,
            user_vector=read_out(hidden, valid, self.config.readout),
            hidden_states=tuple(states) if output_hidden_states else None,
        )
        return output.to_tuple() if return_dict is False else output
