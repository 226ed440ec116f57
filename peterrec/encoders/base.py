"""What every user encoder is: item rows in, one hidden state a position and one vector a user out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from peterrec.encoders.bare import is_bare
from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.dilated import BottleneckBlock, PlainBlock, trailing
from peterrec.encoders.dropout import drop_out
from peterrec.encoders.item_tables import ItemTables
from peterrec.encoders.padding import is_readable, stands_on_the_right
from peterrec.encoders.readout import LAST_POSITION, Readout, valid_positions


@dataclass
class UserEncoderOutput(ModelOutput):
    """`last_hidden_state` `(B, L, D)`, `user_vector` `(B, D)`, and, when asked for, `hidden_states`:
    one `(B, L, D)` a layer, the embeddings first. With `positions`, the last so many states and no user vector; nor is
    there one where the readout needs layers, or item rows, that the encoder was not given."""

    last_hidden_state: Tensor | None = None
    user_vector: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class UserEncoder(ItemTables):
    """Base of the encoders: embeds, masks padding exactly, runs `self.blocks`, reads out.

    The output at valid positions does not depend on how far, or on which side, a batch was padded. `spans` holds for
    each block how many earlier positions an output of it reads, None for all. A subclass adds `blocks` and `spans`.
    """

    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    embed_dropout: nn.Dropout
    blocks: nn.ModuleList
    spans: tuple[int | None, ...]
    reader: Readout
    window: int | None = None  # positions that one call encodes at most, the last ones; None: any number

    def __init__(self, config: UserEncoderConfig):
        super().__init__(config)
        self.embed_dropout = nn.Dropout(config.dropout)

    def post_init(self) -> None:
        """Adds the reader, now that the blocks are there, and draws the weights; a subclass calls it last."""
        config = self.config
        self.reader = Readout(
            config.readout,
            channels=config.hidden_size,
            depth=len(self.blocks),
            layers=config.readout_layers,
            item_weights=config.readout_item_weights,
            vocab_size=config.vocab_size,
        )
        super().post_init()

    @property
    def predicts(self) -> str:
        """Which item a state scores: `next`, what follows its position, or `masked`, what a MASK row there hides."""
        return "next" if self.config.causal else "masked"

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

    def reach(self, readout: str, *, first_block: int = 0) -> int | None:
        """How many states below block `first_block` a user vector depends on, the last valid ones; None: on all."""
        spans = self.spans[first_block:]
        if readout not in LAST_POSITION or not self.config.causal or None in spans:
            return None
        return 1 + sum(filter(None, spans))

    def encoded(self, valid: Tensor) -> Tensor:
        """Which of the `valid` positions `(B, L)` one call encodes: all, unless an encoder has a longest history.

        The others count as padding.
        """
        return valid

    def events_read(self, max_length: int, *, readout: str) -> int:
        """How many of the last `max_length` events a user vector depends on (without the TCL row that ends them)."""
        reach = self.reach(readout)
        return max_length if reach is None else min(max_length, reach - (readout == "tcl"))

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Item rows `(B, L)` to embeddings `(B, L, D)`, zero at padding, and which positions are valid `(B, L)`."""
        valid = self.encoded(valid_positions(input_ids, attention_mask))
        # peft's wrapper for trained rows looks up batch-first
        rows = self.embed_tokens(input_ids).transpose(0, 1).contiguous().transpose(0, 1)
        return _cleared(drop_out(rows, self.embed_dropout), valid), valid

    def embed_properties(self, property_ids: Tensor | None) -> Tensor | None:
        """Kinds of events `(B, L)` to embeddings `(B, L, P)`; ValueError for an encoder that does not read them."""
        if property_ids is not None:
            raise ValueError(
                f"This {type(self).__name__} reads no property_ids: leave them out, or take a DUPN encoder."
            )
        return None

    def run_blocks(
        self,
        hidden: Tensor,
        valid: Tensor,
        *,
        first: int = 0,
        stop: int | None = None,
        positions: int | None = None,
        domain_ids: Tensor | None = None,
        property_ids: Tensor | None = None,
        states: list[Tensor] | None = None,
    ) -> Tensor:
        """Runs the blocks `[first, stop)` on `hidden` `(B, L, D)`; the list `states` gets what comes out of each.

        With `positions`, only that many of the last positions come out, and each block computes only those that they
        depend on. States at padding mean nothing. Raises ValueError for `property_ids`, unless the encoder reads them.
        """
        self.embed_properties(property_ids)
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
            wanted = None if positions is None else positions + sum(filter(None, self.spans[number + 1 : stop]))
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
        property_ids: Tensor | None = None,
    ) -> UserEncoderOutput | tuple:
        """Encodes item rows `input_ids` `(B, L)`; PAD rows and positions where `attention_mask` is 0 are padding.

        With `inputs_embeds` `(B, L, D)` in place of `input_ids`, `attention_mask` says where the padding is; they are
        embeddings, or the states below block `first_block`, which is then the first to run.
        `domain_ids` `(B,)` is handed to every layer, where a tuner may read it (-1: a domain that is not known).
        `positions` asks a causal encoder for the states of the last so many columns only, which is cheaper; users
        must then end in the same column (padding on the left) for the last one to be everybody's last state.
        `property_ids` `(B, L)` say of what kind each event was, for an encoder that reads them (DUPN).
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
            valid = self.encoded(valid)
            hidden = inputs_embeds if first_block else drop_out(inputs_embeds, self.embed_dropout)
            hidden = _cleared(hidden, valid)
        below = not self.reader.reads_top_alone and positions is None
        states = [hidden] if output_hidden_states or below else None
        hidden = self.run_blocks(
            hidden,
            valid,
            first=first_block,
            positions=positions,
            domain_ids=domain_ids,
            property_ids=property_ids,
            states=states,
        )
        hidden = _cleared(hidden, valid)
        output = UserEncoderOutput(
            last_hidden_state=hidden,
            user_vector=self._read(hidden, states, valid, input_ids, first=first_block) if positions is None else None,
            hidden_states=tuple(_cleared(state, valid) for state in states or ()) if output_hidden_states else None,
        )
        return output.to_tuple() if return_dict is False else output

    def _read(
        self, top: Tensor, states: list[Tensor] | None, valid: Tensor, input_ids: Tensor | None, *, first: int
    ) -> Tensor | None:
        """User vectors `(B, D)` by the encoder's reader from the states above block `first`; None where it needs more.

        That is: states of layers below, or, for item weights, the item rows.
        """
        reader = self.reader
        if min(reader.layers) < first or (reader.item_weights is not None and input_ids is None):
            return None
        if states is None:
            return reader([top], valid, input_ids)
        return reader([top if n == reader.depth else states[n - first] for n in reader.layers], valid, input_ids)


def _cleared(states: Tensor, valid: Tensor) -> Tensor:
    """States `(B, n, D)`, zero where the last n columns of `valid` `(B, L)` are padding."""
    valid = valid[:, -states.shape[1] :]
    if is_readable(valid) and bool(valid.all()):
        return states
    return states * valid.unsqueeze(-1)
