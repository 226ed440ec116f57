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
    """Inputs `(B, L)` and targets `(B, L)`, rows of the vocabulary; a target of PAD counts for nothing."""

    inputs: Tensor
    targets: Tensor

    @property
    def num_targets(self) -> int:
        """Valid targets in the batch."""
        return int((self.targets != PAD).sum())


def next_item_batch(
    events: NDArray[np.int64], lengths: NDArray[np.integer], *, tcl_rate: float, rng: np.random.Generator
) -> NextItemBatch:
    """Turns events `(B, L + 1)`, padded on the right, into inputs and the items that follow them.

    In a share `tcl_rate` of the rows, TCL is put after a random event; it predicts what that event predicts: the
    next item. So TCL is trained where it will be read, behind a history of any length.
    """
    count = lengths.astype(np.int64)[:, None]
    chosen = rng.random(len(events)) < tcl_rate
    cut = rng.integers(1, np.maximum(lengths.astype(np.int64), 2))  # events before TCL, 1 .. n − 1
    cut = np.where(chosen, cut, events.shape[1] + 1)[:, None]
    width = events.shape[1] - 1 + int(chosen.any())
    position = np.arange(width)[None, :]
    source = np.where(position < cut, position, position - 1)
    target = np.where(position < cut, position + 1, position)
    valid = target < count
    inputs = np.take_along_axis(events, np.minimum(source, events.shape[1] - 1), axis=1)
    inputs = np.where(position == cut, TCL, inputs)
    targets = np.take_along_axis(events, np.minimum(target, events.shape[1] - 1), axis=1)
    return NextItemBatch(
        inputs=torch.from_numpy(np.where(valid, inputs, PAD)),
        targets=torch.from_numpy(np.where(valid, targets, PAD)),
    )


def next_item_loss(encoder: UserEncoder, batch: NextItemBatch) -> Tensor:
    """Mean cross-entropy over the valid targets, by the exact softmax over all items."""
    hidden = encoder(batch.inputs).last_hidden_state
    valid = batch.targets.ne(PAD)
    # time-major order, so that the gather reads memory in sequence
    rows = valid.t().reshape(-1).nonzero().squeeze(1)
    flat = hidden.transpose(0, 1).reshape(-1, hidden.shape[-1])
    targets = batch.targets.t().reshape(-1)
    return exact_softmax_loss(flat.index_select(0, rows), encoder.score_table(), targets.index_select(0, rows))
