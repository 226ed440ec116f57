"""What every user encoder is: item rows in, one hidden state a position and one vector a user out."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from peterrec.encoders.bare import is_bare
from peterrec.encoders.dilated import BottleneckBlock, PlainBlock, trailing
from peterrec.encoders.dropout import drop_out
from peterrec.encoders.padding import is_readable, stands_on_the_right
from peterrec.encoders.readout import LAST_POSITION, read_out, valid_positions
from peterrec.encoders.table_shard import TableShard
from peterrec.errors import SettingsError


@dataclass
class UserEncoderOutput(ModelOutput):
    """`last_hidden_state` `(B, L, D)`, `user_vector` `(B, D)`, and, when asked for, `hidden_states`:
    one `(B, L, D)` a layer, the embeddings first. With `positions`, the last so many states and no user vector."""

    last_hidden_state: Tensor | None = None
    user_vector: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class UserEncoder(PreTrainedModel):
    """Base of the encoders: embeds, masks padding exactly, runs `self.blocks`, reads out.

    The output at valid positions does not depend on how far, or on which side, a batch was padded. `spans` holds for
    each block how many earlier positions an output of it reads.
    """

    config: Any
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    embed_tokens: nn.Embedding
    embed_dropout: nn.Dropout
    blocks: nn.ModuleList
    spans: tuple[int, ...]
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
        """The table `(V, D)` whose product with a hidden state scores items (special rows included).

        Raises SettingsError while processes share its rows, so that none has it whole.
        """
        table = self._score_weight()
        if isinstance(table, TableShard):
            raise SettingsError(
                "The item table is sharded over processes, but the whole of it is asked for: set "
                "training.shard_tables=false, or objective.softmax=sampled, which reads rows alone."
            )
        return table

    def _score_weight(self) -> Tensor:
        return (self.embed_tokens if self.output is None else self.output).weight

    @property
    def sparse_rows(self) -> bool:
        """Whether looking up rows of the tables leaves sparse gradients, which row-wise optimisers want.

        A table that a tuner wraps has dense ones; asking it for others raises SettingsError.
        """
        return isinstance(self.embed_tokens, nn.Embedding) and self.embed_tokens.sparse

    @sparse_rows.setter
    def sparse_rows(self, value: bool) -> None:
        if isinstance(self.embed_tokens, nn.Embedding):
            self.embed_tokens.sparse = value
        elif value:
            raise SettingsError(
                f"embed_tokens is wrapped in a {type(self.embed_tokens).__name__}, whose gradients are dense: set "
                "training.table_update=dense, or leave the item table out of the adapter."
            )

    def item_rows(self, rows: Tensor) -> Tensor:
        """The rows `(N,)` of the score table as `(N, D)`."""
        table = self._score_weight()
        if isinstance(table, TableShard):
            return table.rows(rows, sparse=self.sparse_rows)
        return F.embedding(rows, table, sparse=self.sparse_rows)

    def reach(self, readout: str, *, first_block: int = 0) -> int | None:
        """How many states below block `first_block` a user vector depends on, the last valid ones; None: on all."""
        if readout not in LAST_POSITION or not self.config.causal:
            return None
        return 1 + sum(self.spans[first_block:])

    def events_read(self, max_length: int, *, readout: str) -> int:
        """How many of the last `max_length` events a user vector depends on (without the TCL row that ends them)."""
        reach = self.reach(readout)
        return max_length if reach is None else min(max_length, reach - (readout == "tcl"))

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Item rows `(B, L)` to embeddings `(B, L, D)`, zero at padding, and which positions are valid `(B, L)`."""
        valid = valid_positions(input_ids, attention_mask)
        # peft's wrapper for trained rows looks up batch-first
        rows = self.embed_tokens(input_ids).transpose(0, 1).contiguous().transpose(0, 1)
        return _cleared(drop_out(rows, self.embed_dropout), valid), valid

    def run_blocks(
        self,
        hidden: Tensor,
        valid: Tensor,
        *,
        first: int = 0,
        stop: int | None = None,
        positions: int | None = None,
        domain_ids: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Runs the blocks `[first, stop)` on `hidden` `(B, L, D)`; the list `states` gets what comes out of each.

        With `positions`, only that many of the last positions come out, and each block computes only those that they
        depend on. States at padding mean nothing.
        """
        stop = len(self.blocks) if stop is None else stop
        mask = None if self._padding_is_unread(valid) else valid.unsqueeze(-1).to(hidden.dtype)
        clean = mask is None
        for number in range(first, stop):
            block = self.blocks[number]
            if mask is not None:
                mask = mask[:, -hidden.shape[1] :]
                hidden = hidden if clean else hidden * mask
                # then zero at padding again; what is hung on a block may change that
                clean = is_bare(block, PlainBlock) or is_bare(block, BottleneckBlock)
            wanted = None if positions is None else positions + sum(self.spans[number + 1 : stop])
            hidden = trailing(block, hidden, mask, domain_ids=domain_ids, positions=wanted)
            if states is not None:
                states.append(hidden)
        return hidden if positions is None else hidden[:, -positions:]

    def _padding_is_unread(self, valid: Tensor) -> bool:
        """Whether no valid position of `valid` `(B, L)` depends on a padded one, as far as may be looked at.

        So it is in a causal encoder when all padding stands on the right, and wherever nothing is padded.
        """
        if not is_readable(valid):
            return False
        return stands_on_the_right(valid) if self.config.causal else bool(valid.all())

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        domain_ids: Tensor | None = None,
        first_block: int = 0,
        positions: int | None = None,
    ) -> UserEncoderOutput | tuple:
        """Encodes item rows `input_ids` `(B, L)`; PAD rows and positions where `attention_mask` is 0 are padding.

        With `inputs_embeds` `(B, L, D)` in place of `input_ids`, `attention_mask` says where the padding is; they are
        embeddings, or the states below block `first_block`, which is then the first to run.
        `domain_ids` `(B,)` is handed to every layer, where a tuner may read it (-1: a domain that is not known).
        `positions` asks a causal encoder for the states of the last so many columns only, which is cheaper; users
        must then end in the same column (padding on the left) for the last one to be everybody's last state.
        `output_attentions` is accepted because generic callers pass it; there are none to return.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give either input_ids or inputs_embeds.")
        if first_block and inputs_embeds is None:
            raise ValueError("first_block needs inputs_embeds: the states below that block.")
        if positions is not None and (output_hidden_states or positions < 1 or not self.config.causal):
            raise ValueError("positions must be >= 1, for a causal encoder, and without output_hidden_states.")
        if input_ids is not None:
            hidden, valid = self.embed(input_ids, attention_mask)
        else:
            assert inputs_embeds is not None
            if attention_mask is None:
                valid = torch.ones(inputs_embeds.shape[:2], dtype=torch.bool, device=inputs_embeds.device)
            else:
                valid = attention_mask.bool()
            hidden = inputs_embeds if first_block else drop_out(inputs_embeds, self.embed_dropout)
            hidden = _cleared(hidden, valid)
        states = [hidden] if output_hidden_states else None
        hidden = self.run_blocks(
            hidden, valid, first=first_block, positions=positions, domain_ids=domain_ids, states=states
        )
        hidden = _cleared(hidden, valid)
        output = UserEncoderOutput(
            last_hidden_state=hidden,
            user_vector=read_out(hidden, valid, self.config.readout) if positions is None else None,
            hidden_states=tuple(_cleared(state, valid) for state in states) if states is not None else None,
        )
        return output.to_tuple() if return_dict is False else output


def _cleared(states: Tensor, valid: Tensor) -> Tensor:
    """States `(B, n, D)`, zero where the last n columns of `valid` `(B, L)` are padding."""
    valid = valid[:, -states.shape[1] :]
    if is_readable(valid) and bool(valid.all()):
        return states
    return states * valid.unsqueeze(-1)
