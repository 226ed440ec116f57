"""Encodes users of a prepared log, in batches of similar length, and ranks their targets; nothing here trains."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import plan
from peterrec.data.reading import Reading
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import MASK, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import Readout, valid_positions
from peterrec.encoders.user_reading import pooled_users, reading_of
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
    return Reading(max_length=max_length, back=TCL if readout == "tcl" else None).rows(sequences, rows).ids


@torch.no_grad()
def encode(
    vectors: Callable[..., Tensor],
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    reading: Reading,
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """Applies `vectors` (item rows `(B, L)` to `(B, ...)`) to the histories `rows` `(N,)`, all by default.

    Where `reading` cuts histories into windows, `vectors` gets the rows `(W, L)`, as `places` `(B, M)` each user's
    among them, and as `positions` how many positions it may encode at a time. Returns `(N, ...)` on the CPU, in the
    order of `rows`. `advance` is told the number of users done.
    """
    rows = np.arange(len(sequences)) if rows is None else rows
    positions = POSITIONS.get(device.type, 2**18)
    out: Tensor | None = None
    for batch in plan(reading.events(sequences.lengths[rows]), positions=positions, shuffle=False):
        laid_out = reading.rows(sequences, rows[batch])
        ids = torch.from_numpy(laid_out.ids).to(device, non_blocking=True)
        if laid_out.places is None:
            found = vectors(ids).cpu()
        else:
            places = torch.from_numpy(laid_out.places).to(device, non_blocking=True)
            found = vectors(ids, places=places, positions=positions).cpu()
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
    readout: str | Readout | None = None,
    window: int | None = None,
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    """User vectors `(N, D)`, float32 on the CPU. A user without events gets zeros (the TCL state for `tcl`).

    `readout` is a reader, or the kind of one; the encoder's own, with what it learned, if that is its kind, or by
    default. `max_length` may be `WHOLE`; histories are read in windows of `window` positions, by default in as long
    ones as the encoder takes. With a readout of the last position a causal encoder computes only what that position
    depends on. Raises SettingsError for a readout that does not fit the encoder.
    """
    reader = readout if isinstance(readout, Readout) else reader_of(encoder, readout)
    reading = reading_of(encoder, reader, max_length=max_length, window=window)
    return _vectors(encoder, reader, reading, sequences, rows=rows, device=device, advance=advance)


def reader_of(encoder: UserEncoder, kind: str | None = None) -> Readout:
    """The encoder's own reader if that is of this kind, or for None; else a fresh one of the top layer.

    Raises SettingsError for attention that the encoder has not learned.
    """
    if kind is None or kind == encoder.reader.kind:
        return encoder.reader
    if kind == "attention":
        raise SettingsError(
            f"The encoder was pretrained with the readout {encoder.reader.kind} and has learned no attention: take the "
            'readout "mean", or pretrain with encoder.readout=attention and with objective.contrast or objective.bag '
            "above 0, which train it."
        )
    return _top_reader(encoder, kind)


def _top_reader(encoder: UserEncoder, kind: str) -> Readout:
    own = encoder.reader
    if own.is_like(kind, layers=(-1,), item_weights=False):
        return own
    reader = Readout(kind, channels=encoder.config.hidden_size, depth=own.depth)
    return reader.to(device=encoder.device, dtype=encoder.dtype)


def _vectors(
    encoder: UserEncoder,
    reader: Readout,
    reading: Reading,
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None,
    device: torch.device,
    advance: Callable[[int], object] | None = None,
) -> Tensor:
    was_training = encoder.training
    encoder.eval()

    def vectors(input_ids: Tensor, *, places: Tensor | None = None, positions: int | None = None) -> Tensor:
        valid = valid_positions(input_ids)
        return reader.mixed(
            pooled_users(encoder, encoder, reader, input_ids, valid, places=places, positions=positions)
        ).float()

    try:
        found = encode(vectors, sequences, rows=rows, reading=reading, device=device, advance=advance)
    finally:
        encoder.train(was_training)
    return found if len(found) else torch.zeros(0, encoder.config.hidden_size)


def next_item_states(
    encoder: UserEncoder,
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    max_length: int,
    device: torch.device,
) -> Tensor:
    """The states `(N, D)`, float32 on the CPU, whose products with the score table score what follows each history.

    By default that of the last event; of an encoder that predicts masked items, that of a MASK row behind it.
    """
    reader = _top_reader(encoder, "last")
    reading = reading_of(encoder, reader, max_length=max_length)
    if encoder.predicts == "masked":
        reading = replace(reading, back=MASK)
    return _vectors(encoder, reader, reading, sequences, rows=rows, device=device)


def rank_next_items(
    encoder: UserEncoder,
    sequences: Sequences,
    *,
    rows: NDArray[np.integer] | None = None,
    max_length: int,
    device: torch.device,
    remove_history: bool = True,
) -> Ranks:
    """Ranks each history's target among all items by its `next_item_states` (full ranking).

    `remove_history` takes everything the user has had (not only the last `max_length` events) out of the candidates,
    but for the target itself.
    """
    rows = np.arange(len(sequences)) if rows is None else rows
    vectors = next_item_states(encoder, sequences, rows=rows, max_length=max_length, device=device)
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
