"""Gap filling: items taken out of a sequence are predicted from both sides and from all that came before (GRec)."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.data.vocabulary import FIRST_ITEM, MASK, PAD, TCL
from peterrec.encoders.grec import GRec
from peterrec.objectives.masked_item import draw_masks, fitted
from peterrec.objectives.next_item import NextItemBatch, item_loss


@dataclass(frozen=True, kw_only=True)
class GapFillingBatch(NextItemBatch):
    """As `NextItemBatch`: `inputs` `(B, L)` have gaps, `decoder_inputs` `(B, L)`, padded alike, have none."""

    decoder_inputs: Tensor

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(super().to(device), decoder_inputs=upload(self.decoder_inputs, device))


def draw_gaps(lengths: NDArray[np.integer], *, rng: np.random.Generator, rate: float = 0.5) -> NDArray[np.bool_]:
    """Chooses a share `rate` of the events of histories of `lengths` `(B,)` as gaps, `(B, L)`.

    By `draw_masks`; never the first event, which nothing precedes, and always the last, which is what inference asks.
    """
    return draw_masks(lengths, rate=rate, rng=rng, last_rate=1.0, spared=1)


def gap_filling_batch(
    events: NDArray[np.int64],
    lengths: NDArray[np.integer],
    *,
    gaps: NDArray[np.bool_],
    tcl: NDArray[np.bool_] | None = None,
) -> GapFillingBatch:
    """Turns events `(B, L + 1)`, padded on the right, into inputs with and without `gaps`, and the events in these.

    The state at a position scores the event after it, where that is a gap (Yuan et al., WWW 2020, §3.2): the encoder
    sees MASK there, and the decoder nothing that late. Nobody sees the last event, as at inference. In the histories
    of `tcl` `(B,)` of two events or more TCL stands behind the last event that is seen, in both inputs, and predicts
    the last one too; there are as many targets as gaps and such histories. `gaps` `(b, l)` are those of a step's
    drawing for the first b rows, of whatever width, and so is `tcl`.
    """
    count = lengths.astype(np.int64)[:, None]
    ends = (np.zeros_like(count, dtype=np.bool_) if tcl is None else fitted(tcl[:, None], count.shape)) & (count > 1)
    width = events.shape[1] - 1 + int(ends.any())
    position = np.arange(width)
    item = fitted(gaps, events.shape) & (np.arange(events.shape[1]) < count) & (events >= FIRST_ITEM)
    seen = events[:, :width]
    whole = np.where(position < count - 1, seen, np.where(ends & (position == count - 1), TCL, PAD))
    with_gaps = np.where(item[:, :width] & (position < count - 1), MASK, whole)
    following = np.minimum(position + 1, events.shape[1] - 1)
    targets = np.where(item[:, following] & (position + 1 < count), events[:, following], PAD)
    targets = np.where(ends & (position == count - 1), seen, targets)
    # time-major order, so that the states are read in sequence
    places = np.flatnonzero(targets.T)
    return GapFillingBatch(
        inputs=torch.from_numpy(with_gaps),
        places=torch.from_numpy(places),
        targets=torch.from_numpy(targets.T.reshape(-1)[places]),
        decoder_inputs=torch.from_numpy(whole),
    )


def gap_filling_loss(encoder: GRec, batch: GapFillingBatch) -> Tensor:
    """`item_loss` of the encoder's states on both inputs of `batch`."""
    hidden = encoder(batch.inputs, decoder_input_ids=batch.decoder_inputs).last_hidden_state
    return item_loss(encoder, hidden, batch)
