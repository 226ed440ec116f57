"""The targets of a batch dealt out to the sets of negatives that they compete with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import PAD
from peterrec.objectives.negatives import Negatives, SharedNegatives
from peterrec.objectives.sampled_softmax import sampled_softmax_loss


@dataclass(frozen=True)
class Share:
    """Some targets of a batch: their `negatives`, how often they themselves are expected among these, the log of it
    `(n,)`, and their `weight` in the batch's mean. With `weights` `(n,)` each has one of its own within the share."""

    negatives: Negatives
    log_counts: Tensor
    weight: float
    weights: Tensor | None = None

    def to(self, device: torch.device) -> "Share":
        """The same on a device."""
        return replace(
            self,
            negatives=self.negatives.to(device),
            log_counts=upload(self.log_counts, device),
            weights=None if self.weights is None else upload(self.weights, device),
        )


def deal(
    targets: NDArray[np.integer],
    *,
    windows: NDArray[np.integer],
    negatives: SharedNegatives,
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], tuple[Share, ...]]:
    """Deals `targets` `(N,)` of the `windows` `(N,)` out: the order in which they stand by share, and the shares.

    A target gets the negatives of its window; PAD is no target and weighs nothing. Without `weights` `(N,)` all
    others weigh the same.
    """
    dealt = negatives.of_window[windows]
    order = np.argsort(dealt, kind="stable")
    stops = np.cumsum(np.bincount(dealt, minlength=len(negatives.sets)))
    sorted_targets = targets[order]
    counted = (sorted_targets != PAD).astype(np.float64)
    if weights is not None:
        counted *= weights[order]
    total = float(counted.sum()) or 1.0
    shares, start = [], 0
    for drawn, stop in zip(negatives.sets, stops.tolist(), strict=True):
        part, start = slice(start, stop), stop
        if len(own := sorted_targets[part]):
            each = None if weights is None else torch.from_numpy(weights[order[part]])
            shares.append(Share(drawn, drawn.log_counts_of(own), float(counted[part].sum()) / total, each))
    return order, tuple(shares)


def shares_loss(
    states: Tensor, targets: Tensor, *, shares: Sequence[Share], item_rows: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean of the sampled softmax losses of `targets` `(N,)` under `states` `(N, D)`, both in the order of `shares`.

    `item_rows` looks up what scores items, rows `(n,)` to `(n, D)`.
    """
    targets_each = [len(share.log_counts) for share in shares]
    negatives_each = [len(share.negatives.rows) for share in shares]
    parts = zip(
        shares,
        states.split(targets_each),
        item_rows(targets).split(targets_each),
        targets.split(targets_each),
        item_rows(torch.cat([share.negatives.rows for share in shares])).split(negatives_each),
        strict=True,
    )
    losses = [
        share.weight
        * sampled_softmax_loss(
            own_states,
            target_rows=target_rows,
            negative_rows=negative_rows,
            targets=own,
            negatives=share.negatives.rows,
            log_counts=share.negatives.log_counts,
            target_log_counts=share.log_counts,
            weights=share.weights,
        )
        for share, own_states, target_rows, own, negative_rows in parts
    ]
    return torch.stack(losses).sum()
