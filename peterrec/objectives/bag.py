"""Set reconstruction: one view of a user's history predicts the items of the other."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.data.upload import upload
from peterrec.data.views import Views
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.encoders.base import UserEncoder
from peterrec.objectives.multinomial_softmax import multinomial_softmax_loss
from peterrec.objectives.negatives import SharedNegatives
from peterrec.objectives.shares import Share, deal, shares_loss

START = 0.02  # standard deviation of a fresh table


@dataclass(frozen=True)
class BagBatch:
    """The items `targets` `(M,)` that each of N vectors shall predict, `counts` `(N,)` of them, one vector's after
    another's. With `shares` they stand in the order of these, and `owners` `(M,)` says whose they are."""

    targets: Tensor
    counts: NDArray[np.int64]
    owners: Tensor | None = None
    shares: tuple[Share, ...] = ()

    @classmethod
    def of(cls, views: Views) -> "BagBatch":
        """For the vectors of `views`: the items of the view of the same user that each is not of."""
        other = views.swapped()
        return cls(torch.from_numpy(other.flat.astype(np.int64)), other.counts)

    def among(self, negatives: SharedNegatives) -> "BagBatch":
        """The same with shared negatives: those of the vector, of which users weigh the same."""
        owners = np.repeat(np.arange(len(self.counts)), self.counts)
        weights = np.repeat((1 / np.maximum(self.counts, 1)).astype(np.float32), self.counts)
        targets = self.targets.numpy()
        order, shares = deal(targets, windows=owners, negatives=negatives, weights=weights)
        ordered = torch.from_numpy(targets[order]), torch.from_numpy(owners[order])
        return replace(self, targets=ordered[0], owners=ordered[1], shares=shares)

    def to(self, device: torch.device) -> "BagBatch":
        """The same on a device; the counts stay with the host."""
        return BagBatch(
            upload(self.targets, device),
            self.counts,
            None if self.owners is None else upload(self.owners, device),
            tuple(share.to(device) for share in self.shares),
        )


class BagOutput(nn.Module):
    """User vectors `(N, D)` to scores of all items: a layer norm, then a table `(V, D)` and a bias `(V,)`.

    `tied`: the table is the encoder's. The bias starts as the log of how often items occur, `counts` `(V - 3,)`, so
    that nothing has to be learnt for that. Dropped after pretraining.
    """

    def __init__(self, encoder: UserEncoder, *, counts: NDArray[np.integer], tied: bool, sparse: bool) -> None:
        super().__init__()
        config = encoder.config
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.table = None if tied else nn.Embedding(config.vocab_size, config.hidden_size, sparse=sparse)
        self.bias = nn.Embedding(config.vocab_size, 1, sparse=sparse)
        with torch.no_grad():
            if self.table is not None:
                nn.init.trunc_normal_(self.table.weight, std=START, a=-2 * START, b=2 * START)
            self.bias.weight.zero_()
            log_share = np.log(counts + 1.0) - np.log((counts + 1.0).mean())
            self.bias.weight[FIRST_ITEM:, 0] = torch.from_numpy(log_share)

    def loss(self, vectors: Tensor, batch: BagBatch, *, encoder: UserEncoder) -> Tensor:
        """Mean over the user vectors `(N, D)` of −1/|S| Σ_{i ∈ S} log softmaxᵢ, S the items of the other view.

        The softmax is over all items, or over the candidates of the batch's shares.
        """
        states = self.norm(vectors)
        if not batch.shares:
            table = encoder.score_table() if self.table is None else self.table.weight
            return multinomial_softmax_loss(
                states, table, targets=batch.targets, counts=batch.counts, bias=self.bias.weight.squeeze(1)
            )
        assert batch.owners is not None
        # the bias as one more channel, whose state is one
        states = F.pad(states, (0, 1), value=1.0).index_select(0, batch.owners)

        def item_rows(rows: Tensor) -> Tensor:
            found = encoder.item_rows(rows) if self.table is None else self.table(rows)
            return torch.cat([found, self.bias(rows)], dim=1)

        return shares_loss(states, batch.targets, shares=batch.shares, item_rows=item_rows)
