"""User vector → scores of all items of a catalogue."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.data.item_features import ItemFeatures
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.heads.classification import HeadLinear, HeadNorm
from peterrec.heads.mixed_input import MixedInput

UNSEEN = 0.5  # events that an item without any counts as, in the bias that it starts with


class RankingHead(nn.Module):
    """Norm, optional hidden layers, and an output table with a bias: user vectors `(B, D)` → scores `(B, W)`.

    `rows` is W, special rows included, which never score. The table starts at zero and the bias with the log of the
    training events `counts` `(W,)`, so that the head starts as the popularity order. Of a cold item, one without
    training events, nothing is learned: it keeps a zero vector and the lowest start. With `features` the vector of an
    item is its own plus, for each column, the mean of the vectors of its values (as LightFM's, Kula, 2015), and so is
    its bias; a cold item then has what its values say, and the mean of the other items' own biases.

    `history` embeds the target items in mixed histories, where the task reads such.
    """

    counts: Tensor
    values: Tensor
    weights: Tensor

    def __init__(
        self,
        channels: int,
        rows: int,
        *,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        bias: bool = True,
        features: ItemFeatures | None = None,
        counts: NDArray[np.integer] | None = None,
        history: MixedInput | None = None,
    ):
        super().__init__()
        widths = [channels, *hidden]
        self.norm = HeadNorm(channels, elementwise_affine=False)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [HeadLinear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(nn.Dropout(dropout), *layers)
        self.items = nn.Parameter(torch.zeros(rows, widths[-1]))  # no nn.Embedding: an output table decays
        self.item_bias = nn.Parameter(torch.zeros(rows)) if bias else None
        seen = np.ones(rows, dtype=np.int64) if counts is None else counts.astype(np.int64)
        assert len(seen) == rows
        self.register_buffer("counts", torch.from_numpy(seen))
        self.value_vectors = self.value_bias = None
        if features is not None:
            assert len(features.values) == rows
            self.value_vectors = nn.Parameter(torch.zeros(len(features.names), widths[-1]))
            self.value_bias = nn.Parameter(torch.zeros(len(features.names))) if bias else None
            self.register_buffer("values", torch.from_numpy(features.values))
            self.register_buffer("weights", torch.from_numpy(features.weights))
        self.history = history
        if counts is not None and self.item_bias is not None:
            logs = np.log(np.maximum(seen[FIRST_ITEM:], UNSEEN))
            with torch.no_grad():
                self.item_bias[FIRST_ITEM:] = torch.from_numpy(logs - logs.mean())

    @property
    def num_rows(self) -> int:
        """W."""
        return len(self.items)

    @property
    def bias(self) -> Tensor | None:
        """What is added to the products with `score_table()`, `(W,)`; None for a head without."""
        return self.biases()

    def query(self, user_vector: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """User vectors `(B, D)`, with a domain each `(B,)` or none, to what the table scores `(B, D_out)`."""
        x = self.norm(user_vector, domain_ids=domain_ids)
        for layer in self.hidden:
            x = layer(x) if isinstance(layer, nn.ReLU | nn.Dropout) else layer(x, domain_ids=domain_ids)
        return x

    def score_table(self) -> Tensor:
        """The vectors of all items `(W, D_out)`."""
        return self.vectors()

    def vectors(self, rows: Tensor | None = None) -> Tensor:
        """The vectors of items `rows` `(n,)`, or of all: `(n, D_out)`."""
        own = self.items if rows is None else F.embedding(rows, self.items)
        return own if self.value_vectors is None else own + self._of_values(self.value_vectors, rows)

    def biases(self, rows: Tensor | None = None) -> Tensor | None:
        """The biases of items `rows` `(n,)`, or of all: `(n,)`; None for a head without."""
        if self.item_bias is None:
            return None
        if self.value_bias is None:
            return self.item_bias if rows is None else self.item_bias.index_select(0, rows)
        warm = self.counts > 0
        mean = (self.item_bias * warm).sum() / warm.sum().clamp(min=1)
        own = torch.where(warm, self.item_bias, mean)
        own = own if rows is None else own.index_select(0, rows)
        return own + self._of_values(self.value_bias.unsqueeze(1), rows).squeeze(1)

    def scores(self, query: Tensor) -> Tensor:
        """Queries `(B, D_out)` to scores `(B, W)`; those of special rows are the lowest finite number."""
        found = F.linear(query, self.vectors(), self.biases())
        special = torch.arange(self.num_rows, device=found.device) < FIRST_ITEM
        return found.masked_fill(special, torch.finfo(found.dtype).min)

    def forward(self, user_vector: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """User vectors `(B, D)`, with a domain each `(B,)` or none, to scores `(B, W)`."""
        return self.scores(self.query(user_vector, domain_ids))

    @torch.no_grad()
    def grow(self, features: ItemFeatures) -> None:
        """Takes n more items behind the W that it has, cold ones, with `features` `(n, M)` of the same names.

        The scores of the others stay as they are. For a trained head: an optimiser would not know the new tensors.
        """
        assert self.value_vectors is not None
        assert len(features.names) == len(self.value_vectors)
        more = len(features.values)
        self.items = _longer(self.items, more)
        self.item_bias = None if self.item_bias is None else _longer(self.item_bias, more)
        self.counts = F.pad(self.counts, (0, more))
        if self.history is not None:
            self.history.grow(more)
        width = max(self.values.shape[1], features.width)
        parts = ((self.values, features.values), (self.weights, features.weights))
        self.values, self.weights = (
            torch.cat([_wider(own, width), _wider(torch.from_numpy(new).to(own), width)]) for own, new in parts
        )

    def _of_values(self, table: Tensor, rows: Tensor | None) -> Tensor:
        values = self.values if rows is None else self.values.index_select(0, rows)
        weights = self.weights if rows is None else self.weights.index_select(0, rows)
        return F.embedding_bag(values, table, per_sample_weights=weights.to(table.dtype), mode="sum")

    def extra_repr(self) -> str:
        return f"rows={self.num_rows}"


def _longer(table: nn.Parameter, rows: int) -> nn.Parameter:
    """A table with so many rows of zeros behind its own."""
    return nn.Parameter(torch.cat([table, table.new_zeros(rows, *table.shape[1:])]), requires_grad=table.requires_grad)


def _wider(table: Tensor, width: int) -> Tensor:
    return F.pad(table, (0, width - table.shape[1]))
