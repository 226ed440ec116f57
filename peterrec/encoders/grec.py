"""GRec: a two-sided encoder over a sequence with gaps, and on it a causal decoder (Yuan et al., WWW 2020)."""

import torch
from torch import Tensor, nn

from peterrec.data.vocabulary import PAD
from peterrec.encoders.base import UserEncoder, UserEncoderOutput
from peterrec.encoders.dilated import BLOCKS, BottleneckBlock, PlainBlock
from peterrec.encoders.dropout import drop_out
from peterrec.encoders.grec_block import JoinBlock
from peterrec.encoders.grec_config import GRecConfig
from peterrec.encoders.item_tables import ItemTables
from peterrec.encoders.padding import is_readable
from peterrec.encoders.readout import valid_positions
from peterrec.encoders.time_major import TimeMajorEmbedding


class GRec(UserEncoder):
    """The encoder-decoder of `config`: the state at a position scores the item that follows it.

    The two-sided blocks read `input_ids`, in training with MASK in its gaps. The block `join` adds what they found to
    the embeddings of `decoder_input_ids`, which have no gaps, from an item table of their own, and the causal blocks
    go on from there. A state thus depends on everything but what stands in gaps and on what comes later than it in the
    decoder. At inference nothing is masked, both read the same, and the last position is read. Items are scored with
    the table of the two-sided blocks (`tie_output`) or one of their own.

    Below the join the states carry those embeddings beside them, `(B, L, 2D)`; the layers that come out as
    `hidden_states` are without, `(B, L, D)`.

    >>> encoder = GRec(GRecConfig(vocab_size=103, hidden_size=16, encoder_dilations=(1, 2), decoder_dilations=(1, 2)))
    >>> encoder(torch.tensor([[3, 1, 5, 0]]), decoder_input_ids=torch.tensor([[3, 4, 5, 0]])).user_vector.shape
    torch.Size([1, 16])
    """

    config_class = GRecConfig

    def __init__(self, config: GRecConfig):
        super().__init__(config)
        # what names "embed_tokens", as adapters on items do, means both tables
        self.decoder = nn.ModuleDict(
            {"embed_tokens": TimeMajorEmbedding(config.vocab_size, config.hidden_size, padding_idx=PAD)}
        )
        encoders = _stack(config, config.encoder_dilations, causal=False)
        decoders = _stack(config, config.decoder_dilations, causal=True)
        self.join = len(encoders)  # the number of that block
        self.blocks = nn.ModuleList([*encoders, JoinBlock(config.hidden_size), *decoders])
        self.spans = (*(sum(block.spans) for block in encoders), 0, *(sum(block.spans) for block in decoders))
        self.post_init()

    @property
    def predicts(self) -> str:
        """The state at a position scores what follows it, although the encoder is two-sided."""
        return "next"

    @property
    def sparse_rows(self) -> bool:
        """Whether looking up rows of both tables leaves sparse gradients; otherwise as in `ItemTables`."""
        table = self.decoder["embed_tokens"]
        return super().sparse_rows and isinstance(table, nn.Embedding) and table.sparse

    @sparse_rows.setter
    def sparse_rows(self, value: bool) -> None:
        ItemTables.sparse_rows.fset(self, value)  # type: ignore[misc]
        table = self.decoder["embed_tokens"]
        if isinstance(table, nn.Embedding):
            table.sparse = value

    def embed(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, decoder_input_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Item rows `(B, L)` to embeddings in both tables `(B, L, 2D)`, zero at padding, and where they are valid.

        The decoder reads `decoder_input_ids` `(B, L)`, padded as `input_ids` is, or without them the same.
        """
        pair, valid = self._look_up(input_ids, attention_mask, decoder_input_ids)
        return _cleared(drop_out(pair, self.embed_dropout), valid), valid

    def _look_up(
        self, input_ids: Tensor, attention_mask: Tensor | None, decoder_input_ids: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        decoder_input_ids = input_ids if decoder_input_ids is None else decoder_input_ids
        if decoder_input_ids.shape != input_ids.shape:
            raise ValueError(
                f"decoder_input_ids must be of the shape of input_ids, {tuple(input_ids.shape)}, but are "
                f"{tuple(decoder_input_ids.shape)}."
            )
        pair = _side_by_side(self.embed_tokens(input_ids), self.decoder["embed_tokens"](decoder_input_ids))
        return pair, valid_positions(input_ids, attention_mask)

    def layer(self, state: Tensor) -> Tensor:
        """States as one layer `(B, L, D)`: below the join, `(B, L, 2D)`, without the decoder's embeddings."""
        return state[..., : self.config.hidden_size]

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
        """Runs the blocks `[first, stop)` on `hidden` `(B, L, 2D)`, above the join `(B, L, D)`, to states of that kind.

        The list `states` gets the layer `(B, L, D)` that comes out of each. Raises ValueError for `positions`, since
        each state depends on all columns, for `property_ids`, which GRec does not read, and for `hidden` of another
        width.
        """
        stop = len(self.blocks) if stop is None else stop
        if positions is not None:
            raise ValueError("A two-sided encoder computes all positions: leave positions out.")
        width = self.config.hidden_size * (2 if first <= self.join else 1)
        if hidden.shape[-1] != width:
            raise ValueError(
                f"GRec reads {width} channels below block {first}, up to the join (block {self.join}) states and "
                f"embeddings of the decoder side by side, as embed() gives them, but got {hidden.shape[-1]}."
            )
        if first <= self.join:
            hidden, decoded = hidden.chunk(2, dim=-1)
            below = min(stop, self.join)
            hidden = super().run_blocks(
                hidden, valid, first=first, stop=below, domain_ids=domain_ids, property_ids=property_ids, states=states
            )
            if stop <= self.join:
                return _side_by_side(hidden, decoded)
            hidden = self.blocks[self.join](hidden, decoded, domain_ids=domain_ids)
            if states is not None:
                states.append(hidden)
            first = self.join + 1
        return super().run_blocks(
            hidden, valid, first=first, stop=stop, domain_ids=domain_ids, property_ids=property_ids, states=states
        )

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
        decoder_input_ids: Tensor | None = None,
    ) -> UserEncoderOutput | tuple:
        """Encodes item rows `input_ids` `(B, L)`, the decoder `decoder_input_ids` `(B, L)`, padded alike, or the same.

        With `inputs_embeds`, what `embed` gives before its dropout `(B, L, 2D)`, or the states below `first_block`, as
        `run_blocks` takes them. Otherwise as `UserEncoder.forward`. Raises ValueError for `positions`, for inputs of
        another width, and for `decoder_input_ids` without `input_ids`.
        """
        if decoder_input_ids is not None:
            if input_ids is None or inputs_embeds is not None:
                raise ValueError("decoder_input_ids go with input_ids, not with inputs_embeds.")
            inputs_embeds, attention_mask = self._look_up(input_ids, attention_mask, decoder_input_ids)
            input_ids = None
        output = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            domain_ids=domain_ids,
            first_block=first_block,
            positions=positions,
            property_ids=property_ids,
        )
        assert isinstance(output, UserEncoderOutput)
        if output.hidden_states is not None:
            output.hidden_states = tuple(self.layer(state) for state in output.hidden_states)
        return output.to_tuple() if return_dict is False else output

    def _read(
        self, top: Tensor, states: list[Tensor] | None, valid: Tensor, input_ids: Tensor | None, *, first: int
    ) -> Tensor | None:
        layers = None if states is None else [self.layer(state) for state in states]
        return super()._read(top, layers, valid, input_ids, first=first)


def _stack(
    config: GRecConfig, dilations: list[int] | tuple[int, ...], *, causal: bool
) -> list[PlainBlock | BottleneckBlock]:
    block = BLOCKS[config.block]
    return [
        block(
            config.hidden_size,
            tuple(dilations[first : first + block.convolutions]),
            kernel_size=config.kernel_size,
            causal=causal,
            eps=config.layer_norm_eps,
            dropout=config.dropout,
        )
        for first in range(0, len(dilations), block.convolutions)
    ]


def _side_by_side(states: Tensor, others: Tensor) -> Tensor:
    """Two of `(B, L, D)` as one `(B, L, 2D)`, in time-major memory."""
    return torch.cat([states.transpose(0, 1), others.transpose(0, 1)], dim=-1).transpose(0, 1)


def _cleared(states: Tensor, valid: Tensor) -> Tensor:
    """States `(B, L, C)`, zero where `valid` `(B, L)` is not."""
    return states if is_readable(valid) and bool(valid.all()) else states * valid.unsqueeze(-1)
