"""Next-item prediction at every valid position, with the TCL row at random cut points (PeterRec, SIGIR 2020)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.objectives.softmax import exact_softmax_loss


@dataclass(frozen=True)
class NextItemBatch:
    """Inputs `(B, L)`, rows of the vocabulary; where something is to be predicted, as places `(N,)` in the flattened
    time-major `(L, B)`; and what, `targets` `(N,)`."""

    inputs: Tensor
    places: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "NextItemBatch":
        """The same batch on a device."""
        return NextItemBatch(*(t.to(device, non_blocking=True) for t in (self.inputs, self.places, self.targets)))


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
    """Mean cross-entropy over the targets, by the exact softmax over all items."""
    hidden = encoder(batch.inputs).last_hidden_state
    flat = hidden.transpose(0, 1).reshape(-1, hidden.shape[-1])
    return exact_softmax_loss(flat.index_select(0, batch.places), encoder.score_table(), batch.targets)
