"""Next-item prediction at every valid position, with the TCL row at random cut points (PeterRec, SIGIR 2020)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.objectives.negatives import Negatives, SharedNegatives
from peterrec.objectives.sampled_softmax import sampled_softmax_loss
from peterrec.objectives.softmax import exact_softmax_loss


@dataclass(frozen=True)
class NextItemBatch:
    """What a piece of a step computes.

    Inputs `(B, L)`, rows of the vocabulary; where something is to be predicted, as `places` `(N,)` in the flattened
    time-major `(L, B)`; and what, `targets` `(N,)`, of which PAD is none. Without `shares`, among all items; else each
    has the candidates of its share, one after the other in this order.
    """

    inputs: Tensor
    places: Tensor
    targets: Tensor
    shares: tuple["Share", ...] = ()

    def to(self, device: torch.device) -> "NextItemBatch":
        """The same batch on a device."""
        return NextItemBatch(
            *(upload(t, device) for t in (self.inputs, self.places, self.targets)),
            shares=tuple(share.to(device) for share in self.shares),
        )

    def everywhere(self) -> "NextItemBatch":
        """The same with a target at every position, PAD where there was none: as many as `(B, L)` has places."""
        assert not self.shares
        targets = self.targets.new_full((self.inputs.numel(),), PAD)
        targets[self.places] = self.targets
        return replace(self, places=torch.arange(len(targets)), targets=targets)

    def among(self, negatives: SharedNegatives) -> "NextItemBatch":
        """The same, its targets sorted by the negatives that they get: those of their window."""
        places, targets = self.places.numpy(), self.targets.numpy()
        dealt = negatives.of_window[places % len(self.inputs)]
        order = np.argsort(dealt, kind="stable")
        stops = np.cumsum(np.bincount(dealt, minlength=len(negatives.sets)))
        places, targets, total = places[order], targets[order], max(int(np.count_nonzero(targets)), 1)
        shares, start = [], 0
        for drawn, stop in zip(negatives.sets, stops.tolist(), strict=True):
            own, start = targets[start:stop], stop
            if len(own):
                shares.append(Share(drawn, drawn.log_counts_of(own), int(np.count_nonzero(own)) / total))
        return NextItemBatch(self.inputs, torch.from_numpy(places), torch.from_numpy(targets), tuple(shares))


@dataclass(frozen=True)
class Share:
    """Some targets of a batch: their `negatives`, how often they themselves are expected among these, the log of it
    `(n,)`, and their `weight` in the batch's mean."""

    negatives: Negatives
    log_counts: Tensor
    weight: float

    def to(self, device: torch.device) -> "Share":
        """The same on a device."""
        return replace(self, negatives=self.negatives.to(device), log_counts=upload(self.log_counts, device))


def tcl_cuts(lengths: NDArray[np.integer], *, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """After how many events TCL is put, in a share `rate` of windows of `lengths` `(B,)`; 0 in the others."""
    chosen = rng.random(len(lengths)) < rate
    return np.where(chosen, rng.integers(1, np.maximum(lengths.astype(np.int64), 2)), 0)


def next_item_batch(
    events: NDArray[np.int64], lengths: NDArray[np.integer], *, cuts: NDArray[np.int64]
) -> NextItemBatch:
    """Turns events `(B, L + 1)`, padded on the right, into inputs and the items that follow them.

    TCL is put after the first `cuts` `(B,)` events of a row, 0: nowhere; it predicts what that event predicts: the
    next item. So TCL is trained where it will be read, behind a history of any length.
    """
    count = lengths.astype(np.int64)[:, None]
    cut = np.where(cuts > 0, cuts, events.shape[1] + 1)[:, None]
    width = events.shape[1] - 1 + int((cuts > 0).any())
    position = np.arange(width)[None, :]
    source = np.where(position < cut, position, position - 1)
    target = np.where(position < cut, position + 1, position)
    valid = target < count
    inputs = np.take_along_axis(events, np.minimum(source, events.shape[1] - 1), axis=1)
    inputs = np.where(position == cut, TCL, inputs)
    targets = np.take_along_axis(events, np.minimum(target, events.shape[1] - 1), axis=1)
    # time-major order, so that the states are read in sequence
    places = np.flatnonzero(valid.T)
    return NextItemBatch(
        inputs=torch.from_numpy(np.where(valid, inputs, PAD)),
        places=torch.from_numpy(places),
        targets=torch.from_numpy(targets.T.reshape(-1)[places]),
    )


def next_item_loss(encoder: UserEncoder, batch: NextItemBatch) -> Tensor:
    """Mean cross-entropy over the targets, by the softmax over all items, or over the candidates of their shares."""
    hidden = encoder(batch.inputs).last_hidden_state
    flat = hidden.transpose(0, 1).reshape(-1, hidden.shape[-1])
    if not batch.shares:
        in_place = len(batch.places) == len(flat)
        states = flat if in_place else flat.index_select(0, batch.places)
        return exact_softmax_loss(states, encoder.score_table(), batch.targets)
    negatives = torch.cat([share.negatives.rows for share in batch.shares])
    targets_each = [len(share.log_counts) for share in batch.shares]
    negatives_each = [len(share.negatives.rows) for share in batch.shares]
    parts = zip(
        batch.shares,
        flat.index_select(0, batch.places).split(targets_each),
        encoder.item_rows(batch.targets).split(targets_each),
        batch.targets.split(targets_each),
        encoder.item_rows(negatives).split(negatives_each),
        strict=True,
    )
    losses = [
        share.weight
        * sampled_softmax_loss(
            states,
            target_rows=target_rows,
            negative_rows=negative_rows,
            targets=targets,
            negatives=share.negatives.rows,
            log_counts=share.negatives.log_counts,
            target_log_counts=share.log_counts,
        )
        for share, states, target_rows, targets, negative_rows in parts
    ]
    return torch.stack(losses).sum()
