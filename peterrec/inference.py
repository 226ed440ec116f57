"""Encodes whole parts of a prepared log, in batches of similar length; nothing here trains."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import pad, plan, tails
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import read_out
from peterrec.errors import SettingsError
from peterrec.metrics.ranking import Ranks, rank_targets

POSITIONS = {"cpu": 2**15, "cuda": 2**20}  # users × length at a time, when no gradients are kept


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then mps, then the CPU. Raises SettingsError for one that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = "cuda" if there["cuda"] else "mps" if there["mps"] else "cpu"
    if not there.get(name, False):
        usable = ", ".join(device for device, usable in there.items() if usable)
        raise SettingsError(f"--device {name} is not there on this machine; usable: {usable}.")
    return torch.device(name)


def last_events(sequences: Sequences, rows: NDArray[np.integer], *, max_length: int, readout: str) -> NDArray[np.int64]:
    """The last `max_length` events of the histories `rows` `(B,)` as `(B, L)`, TCL at the end for that readout."""
    lengths = sequences.lengths[rows]
    flat, counts = sequences.gather(rows, np.maximum(lengths - max_length, 0), lengths)
    return pad(flat, counts, append=TCL if readout == "tcl" else None)


@torch.no_grad()
def encode(
    vectors: Callable[[Tensor], Tensor],
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    max_length: int,
    readout: str,
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Applies `vectors` (item rows `(B, L)` to `(B, ...)`) to the histories `rows` `(N,)`, all by default.

    Returns `(N, ...)` on the CPU, in the order of `rows`. `advance` is told the number of users done.
    """
    rows = np.arange(len(sequences)) if rows is None else rows
    spans = tails(sequences.lengths[rows], max_length=max_length).lengths
    positions = POSITIONS.get(device.type, 2**18)
    parts: list[Tensor] = []
    order: list[NDArray[np.integer]] = []
    for batch in plan(spans, positions=positions, shuffle=False):
        ids = last_events(sequences, rows[batch], max_length=max_length, readout=readout)
        parts.append(vectors(torch.from_numpy(ids).to(device, non_blocking=True)))
        order.append(batch)
        if advance is not None:
            advance(len(batch))
    if not parts:
        return torch.zeros(0, 0)
    joined = torch.cat(parts).cpu()
    out = torch.empty_like(joined)
    out[torch.from_numpy(np.concatenate(order))] = joined
    return out


def user_vectors(
    encoder: UserEncoder,
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    max_length: int,
    readout: str,
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """User vectors `(N, D)`, float32 on the CPU. A user without events gets zeros (the TCL state for `tcl`)."""
    was_training = encoder.training
    encoder.eval()

    def vectors(input_ids: Tensor) -> Tensor:
        return read_out(encoder(input_ids).last_hidden_state, input_ids.ne(PAD), readout).float()

    try:
        found = encode(
            vectors,
            sequences,
            rows=rows,
            max_length=max_length,
            readout=readout,
            device=device,
            advance=advance,
        )
    finally:
        encoder.train(was_training)
    return found if len(found) else torch.zeros(0, encoder.config.hidden_size)


def rank_next_items(
    encoder: UserEncoder,
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    max_length: int,
    device: torch.device,
    remove_history: bool = True,
    advance: Callable[[int], object] | None = None,
) -> Ranks:
    """Ranks each history's target among all items by the state at the last event (full ranking).

    `remove_history` takes everything the user has had (not only the last `max_length` events) out of the candidates,
    but for the target itself.
    """
    assert sequences.targets is not None
    rows = np.arange(len(sequences)) if rows is None else rows
    vectors = user_vectors(
        encoder, sequences, rows=rows, max_length=max_length, readout="last", device=device, advance=advance
    )
    histories = None
    if remove_history:
        histories = sequences.gather(rows, np.zeros_like(rows), sequences.lengths[rows])
    targets = torch.from_numpy(sequences.targets[rows].astype(np.int64))
    return rank_targets(vectors.to(device), encoder.score_table(), targets.to(device), histories=histories)
