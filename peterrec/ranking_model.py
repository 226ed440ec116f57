"""A task model that ranks items, from the histories of one domain or of two mixed."""

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from peterrec.encoders.base import UserEncoder
from peterrec.encoders.grec import GRec
from peterrec.encoders.readout import Readout, valid_positions
from peterrec.encoders.user_reading import Encoder, pooled_users
from peterrec.heads.mixed_input import MixedInput
from peterrec.heads.ranking import RankingHead
from peterrec.model import TaskModel

if TYPE_CHECKING:
    from peft import PeftModel


class RankingModel(TaskModel):
    """Encoder, readout and ranking head; scores `(B, W)` are the logits of `forward`.

    Where the head embeds target items of its own (`head.history`), item rows are those of mixed histories, and what is
    learned of them stands below the lowest block: then no state of the encoder stands still.
    """

    head: RankingHead

    def __init__(
        self,
        encoder: "UserEncoder | PeftModel",
        head: RankingHead,
        *,
        readout: str | Readout,
        window: int | None = None,
    ):
        super().__init__(encoder, head, readout=readout, window=window)

    @property
    def standing_blocks(self) -> int:
        return super().standing_blocks if self.head.history is None else 0

    @property
    def encoder_stands(self) -> bool:
        return super().encoder_stands if self.head.history is None else False

    def queries(self, input_ids: Tensor, *, places: Tensor | None = None, positions: int | None = None) -> Tensor:
        """Item rows `(B, L)`, or windows of B users as `pooled_users` takes them, to queries `(B, D_out)`."""
        pooled = self.pooled_users(input_ids, places=places, positions=positions)
        return self.head.query(self.vectors_of_pooled(pooled))

    def states(self, input_ids: Tensor) -> Tensor:
        """Item rows `(B, L)` to the top layer's states `(B, L, D)`."""
        valid = valid_positions(input_ids)
        history = self.head.history
        encoder = self.encoder if history is None else MixedEncoder(self.encoder, self.base_encoder, history)
        return encoder(input_ids=input_ids, attention_mask=valid).last_hidden_state

    def pooled_users(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        domain_ids: Tensor | None = None,
        places: Tensor | None = None,
        positions: int | None = None,
    ) -> Tensor:
        history = self.head.history
        if history is None:
            return super().pooled_users(input_ids, attention_mask, domain_ids, places, positions)
        mixed = MixedEncoder(self.encoder, self.base_encoder, history)
        return pooled_users(
            mixed,
            cast(UserEncoder, mixed),
            self.reader,
            input_ids,
            valid_positions(input_ids, attention_mask),
            places=places,
            domain_ids=domain_ids,
            positions=positions,
        )


class MixedEncoder:
    """`encoder`, which is `base` or a PeftModel around it, reading mixed item rows: what `pooled_users` asks for."""

    def __init__(self, encoder: Encoder, base: UserEncoder, history: MixedInput):
        self._encoder = encoder
        self._base = base
        self._history = history

    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        domain_ids: Tensor | None = None,
        positions: int | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """As the encoder's forward, of mixed rows `(B, L)`."""
        return self._encoder(
            inputs_embeds=self._embedded(input_ids),
            attention_mask=attention_mask,
            domain_ids=domain_ids,
            positions=positions,
            output_hidden_states=output_hidden_states,
        )

    def encoded(self, valid: Tensor) -> Tensor:
        """As the encoder's."""
        return self._base.encoded(valid)

    def reach(self, readout: str, *, first_block: int = 0) -> int | None:
        """As the encoder's."""
        return self._base.reach(readout, first_block=first_block)

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mixed rows `(B, L)` to embeddings `(B, L, D)`, and which positions are valid `(B, L)`."""
        return self._embedded(input_ids), self._base.encoded(valid_positions(input_ids, attention_mask))

    def _embedded(self, input_ids: Tensor) -> Tensor:
        """Embeddings before the encoder's dropout, which its forward applies; of two item tables side by side."""
        ids = self._history.source_ids(input_ids)
        tables: list[nn.Module] = [self._base.embed_tokens]
        if isinstance(self._base, GRec):
            tables.append(self._base.decoder["embed_tokens"])
        embedded = [self._history(table(ids), input_ids).transpose(0, 1) for table in tables]
        return torch.cat(embedded, dim=-1).transpose(0, 1)
