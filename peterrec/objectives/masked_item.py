"""Masked-item prediction from both sides, as PeterRec pretrains its two-sided encoder (SIGIR 2020; BERT, 2018)."""

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.data.vocabulary import FIRST_ITEM, MASK, PAD, TCL
from peterrec.objectives.next_item import NextItemBatch

Scalar = TypeVar("Scalar", bound=np.generic)

KEPT = -1  # what is predicted and yet stands in the input
MASKED_SHARE, KEPT_SHARE = 0.8, 0.1  # of the events predicted; a random item stands in for the others


def draw_masks(
    lengths: NDArray[np.integer],
    *,
    rate: float,
    rng: np.random.Generator,
    last_rate: float = 0.0,
    spared: int = 0,
) -> NDArray[np.bool_]:
    """Chooses a share `rate` of the events of histories of `lengths` `(B,)`, never the first `spared`; `(B, L)`.

    The number is rate × length, rounded up or down at random so that it is right on average, and one at least where
    there is an event to choose. A fixed number, not a coin an event, so that a short history has neither no target nor
    no context, and the targets of a step hardly vary; every choice of so many events is as likely. In a share
    `last_rate` of the histories the last event is among the chosen.
    """
    count = lengths.astype(np.int64)
    free = np.maximum(count - spared, 0)
    wanted = np.clip(np.floor(rate * free + rng.random(len(free))).astype(np.int64), np.minimum(free, 1), free)
    ends = np.cumsum(free)
    keys = rng.random(int(free.sum()))
    keys[ends[(rng.random(len(free)) < last_rate) & (free > 0)] - 1] = -1.0
    row = np.repeat(np.arange(len(free)), free)
    rank = np.empty_like(row)
    rank[np.lexsort((keys, row))] = np.arange(len(row)) - (ends - free)[row]
    position = np.arange(int(count.max(initial=0)))
    chosen = np.zeros((len(count), len(position)), dtype=np.bool_)
    chosen[(position >= spared) & (position < count[:, None])] = rank < wanted[row]
    return chosen


def draw_stand_ins(
    lengths: NDArray[np.integer],
    *,
    vocab_size: int,
    rng: np.random.Generator,
    rate: float = 0.3,
    last_rate: float = 0.1,
    tcl: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """What stands in the input for each event that is predicted, `(B, L)`; PAD where none is.

    For a share `rate` of the events, chosen by `draw_masks`: MASK for 80 % of them, KEPT, the event itself, for 10 %,
    and a random item for 10 %, by independent draws. In the histories of `tcl` `(B,)` the last event is predicted,
    and TCL stands for it, so that this row is trained where it is read: behind a history.
    """
    chosen = draw_masks(lengths, rate=rate, rng=rng, last_rate=last_rate)
    kind, items = rng.random(chosen.shape), rng.integers(FIRST_ITEM, vocab_size, size=chosen.shape)
    drawn = np.where(kind < MASKED_SHARE, MASK, np.where(kind < MASKED_SHARE + KEPT_SHARE, KEPT, items))
    drawn = np.where(chosen, drawn, PAD)
    if tcl is not None:
        rows = np.flatnonzero(tcl & (lengths > 0))
        drawn[rows, lengths[rows].astype(np.int64) - 1] = TCL
    return drawn


def masked_item_batch(
    events: NDArray[np.int64], lengths: NDArray[np.integer], *, stand_ins: NDArray[np.int64]
) -> NextItemBatch:
    """Turns events `(B, L)`, padded on the right, into inputs with `stand_ins` and the events that they stand for.

    `stand_ins` `(b, l)` are those of a step's drawing for the first b rows, of whatever width; there are as many
    targets as they are not PAD. A row that is no item is neither replaced nor predicted.
    """
    drawn = fitted(stand_ins, events.shape)
    valid = np.arange(events.shape[1]) < lengths[:, None]
    predicted = (drawn != PAD) & valid & (events >= FIRST_ITEM)
    inputs = np.where(predicted & (drawn != KEPT), drawn, events)
    # time-major order, so that the states are read in sequence
    places = np.flatnonzero(predicted.T)
    return NextItemBatch(
        inputs=torch.from_numpy(np.where(valid, inputs, PAD)),
        places=torch.from_numpy(places),
        targets=torch.from_numpy(events.T.reshape(-1)[places]),
    )


def fitted(drawn: NDArray[Scalar], shape: tuple[int, ...]) -> NDArray[Scalar]:
    """A drawing `(b, l)` in the shape `(B, L)` of a batch: columns cut off, which are empty, rows and columns added."""
    drawn = drawn[: shape[0], : shape[1]]
    return np.pad(drawn, [(0, size - had) for size, had in zip(shape, drawn.shape, strict=True)])
