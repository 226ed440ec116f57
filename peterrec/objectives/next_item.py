"""Next-item prediction at every valid position, with the TCL row at random cut points (PeterRec, SIGIR 2020)."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.objectives.multinomial_softmax import multinomial_softmax_loss
from peterrec.objectives.negatives import SharedNegatives
from peterrec.objectives.shares import Share, deal, shares_loss
from peterrec.objectives.softmax import exact_softmax_loss


@dataclass(frozen=True)
class NextItemBatch:
    """What a piece of a step computes.

    Inputs `(B, L)`, rows of the vocabulary; where something is to be predicted, as `places` `(N,)` in the flattened
    time-major `(L, B)`; and what, `targets` `(N,)`, or `(N, k)` where a state has several; PAD is none. Without
    `shares`, among all items; else each target has the candidates of its share, one after the other in this order.
    """

    inputs: Tensor
    places: Tensor
    targets: Tensor
    shares: tuple[Share, ...] = ()

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(
            self,
            inputs=upload(self.inputs, device),
            places=upload(self.places, device),
            targets=upload(self.targets, device),
            shares=tuple(share.to(device) for share in self.shares),
        )

    def everywhere(self) -> Self:
        """The same with targets at every position, PAD where there were none: as many as `(B, L)` has places."""
        assert not self.shares
        targets = self.targets.new_full((self.inputs.numel(), *self.targets.shape[1:]), PAD)
        targets[self.places] = self.targets
        return replace(self, places=torch.arange(len(targets)), targets=targets)

    def among(self, negatives: SharedNegatives) -> Self:
        """The same, its targets sorted by the negatives that they get: those of their window.

        Of several targets of a state each gets a place of its own, and their weights sum to one.
        """
        places, targets, weights = self.places.numpy(), self.targets.numpy(), None
        if targets.ndim == 2:
            real = targets != PAD
            weights = (real / np.maximum(real.sum(axis=1, keepdims=True), 1)).astype(np.float32).reshape(-1)
            places, targets = np.repeat(places, targets.shape[1]), targets.reshape(-1)
        order, shares = deal(targets, windows=places % len(self.inputs), negatives=negatives, weights=weights)
        return replace(
            self, places=torch.from_numpy(places[order]), targets=torch.from_numpy(targets[order]), shares=shares
        )


def tcl_cuts(lengths: NDArray[np.integer], *, rate: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """After how many events TCL is put, in a share `rate` of windows of `lengths` `(B,)`; 0 in the others."""
    chosen = rng.random(len(lengths)) < rate
    return np.where(chosen, rng.integers(1, np.maximum(lengths.astype(np.int64), 2)), 0)


def next_item_batch(
    events: NDArray[np.int64], lengths: NDArray[np.integer], *, cuts: NDArray[np.int64], steps: int = 1
) -> NextItemBatch:
    """Turns events `(B, L + 1)`, padded on the right, into inputs and the items that follow them.

    TCL is put after the first `cuts` `(B,)` events of a row, 0: nowhere; it predicts what that event predicts: the
    next item. So TCL is trained where it will be read, behind a history of any length. With several `steps` the
    targets are the next so many items, those of them that the row still has.
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
    # time-major order, so that the states are read in sequence
    places = np.flatnonzero(valid.T)

    def following(step: int) -> NDArray[np.int64]:
        found = np.take_along_axis(events, np.minimum(target + step, events.shape[1] - 1), axis=1)
        return np.where(target + step < count, found, PAD).T.reshape(-1)[places]

    targets = following(0) if steps == 1 else np.stack([following(step) for step in range(steps)], axis=1)
    return NextItemBatch(
        inputs=torch.from_numpy(np.where(valid, inputs, PAD)),
        places=torch.from_numpy(places),
        targets=torch.from_numpy(targets),
    )


def next_item_loss(encoder: UserEncoder, batch: NextItemBatch) -> Tensor:
    """`item_loss` of the encoder's states on the inputs of `batch`."""
    return item_loss(encoder, encoder(batch.inputs).last_hidden_state, batch)


def item_loss(encoder: UserEncoder, hidden: Tensor, batch: NextItemBatch) -> Tensor:
    """Mean cross-entropy over the targets, by the softmax over all items, or over the candidates of their shares.

    `hidden` `(B, L, D)` are states of `encoder`, whose table scores items. A state with several targets gives the mean
    over them, so that each state weighs the same.
    """
    flat = hidden.transpose(0, 1).reshape(-1, hidden.shape[-1])
    if batch.shares:
        states = flat.index_select(0, batch.places)
        return shares_loss(states, batch.targets, shares=batch.shares, item_rows=encoder.item_rows)
    in_place = len(batch.places) == len(flat)
    states = flat if in_place else flat.index_select(0, batch.places)
    if batch.targets.ndim == 1:
        return exact_softmax_loss(states, encoder.score_table(), batch.targets)
    return multinomial_softmax_loss(
        states,
        encoder.score_table(),
        targets=batch.targets.reshape(-1),
        counts=np.full(len(states), batch.targets.shape[1]),
    )
