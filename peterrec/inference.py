"""Encodes users of a prepared log, in batches of similar length, and ranks their targets; nothing here trains."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import pad, plan, tails
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import read_users, valid_positions
from peterrec.errors import SettingsError
from peterrec.metrics.ranking import Histories, Ranks, rank_targets

POSITIONS = {"cpu": 2**14, "cuda": 2**20}  # users × length at a time, when no gradients are kept


def choose_device(name: str) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then mps, then the CPU. Raises SettingsError if it is not there."""
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
    out: Tensor | None = None
    for batch in plan(spans, positions=positions, shuffle=False):
        ids = last_events(sequences, rows[batch], max_length=max_length, readout=readout)
        found = vectors(torch.from_numpy(ids).to(device, non_blocking=True)).cpu()
        if out is None:
            out = found.new_empty(len(rows), *found.shape[1:])
        out[torch.from_numpy(batch)] = found
        if advance is not None:
            advance(len(batch))
    return torch.zeros(0, 0) if out is None else out


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
    """User vectors `(N, D)`, float32 on the CPU. A user without events gets zeros (the TCL state for `tcl`).

    With a readout of the last position a causal encoder computes only what that position depends on.
    """
    was_training = encoder.training
    encoder.eval()

    def vectors(input_ids: Tensor) -> Tensor:
        return read_users(
            encoder, input_ids, valid_positions(input_ids), readout=readout, reach=encoder.reach(readout)
        ).float()

    try:
        found = encode(
            vectors,
            sequences,
            rows=rows,
            max_length=encoder.events_read(max_length, readout=readout),
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
) -> Ranks:
    """Ranks each history's target among all items by the state at the last event (full ranking).

    `remove_history` takes everything the user has had (not only the last `max_length` events) out of the candidates,
    but for the target itself.
    """
    rows = np.arange(len(sequences)) if rows is None else rows
    vectors = user_vectors(encoder, sequences, rows=rows, max_length=max_length, readout="last", device=device)
    histories = whole_histories(sequences, rows) if remove_history else None
    return rank_vectors(vectors, encoder, targets_of(sequences, rows), device=device, histories=histories)


def rank_vectors(
    vectors: Tensor, encoder: UserEncoder, targets: Tensor, *, device: torch.device, histories: Histories | None
) -> Ranks:
    """Ranks `targets` `(N,)` among all items but those of `histories`, by user vectors `(N, D)` of `encoder`."""
    return rank_targets(vectors.to(device), encoder.score_table(), targets.to(device), histories=histories)


def whole_histories(sequences: Sequences, rows: NDArray[np.integer]) -> Histories:
    """All events of the histories `rows` `(N,)`: flat, and the number of each."""
    return sequences.gather(rows, np.zeros_like(rows), sequences.lengths[rows])


def targets_of(sequences: Sequences, rows: NDArray[np.integer]) -> Tensor:
    """The target items of the histories `rows` `(N,)`, int64 `(N,)`."""
    assert sequences.targets is not None
    return torch.from_numpy(sequences.targets[rows].astype(np.int64))
