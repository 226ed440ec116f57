"""The tables of an encoder: the embeddings of its items, and what scores them."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from peterrec.data.vocabulary import PAD
from peterrec.encoders.config import UserEncoderConfig
from peterrec.encoders.table_shard import TableShard
from peterrec.encoders.time_major import TimeMajorEmbedding
from peterrec.errors import SettingsError


class ItemTables(PreTrainedModel):
    """An encoder's item table, and the table that scores items: the same one, or with `tie_output=False` its own."""

    config: Any
    embed_tokens: nn.Embedding
    output: nn.Linear | None

    def __init__(self, config: UserEncoderConfig):
        super().__init__(config)
        self.embed_tokens = TimeMajorEmbedding(config.vocab_size, config.hidden_size, padding_idx=PAD)
        self.output = None if config.tie_output else nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_input_embeddings(self) -> nn.Module:
        """The item table."""
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the item table."""
        self.embed_tokens = value  # type: ignore[assignment]

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
