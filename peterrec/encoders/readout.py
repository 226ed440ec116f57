"""How hidden states become one vector a user."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peterrec.data.vocabulary import PAD

READOUTS = ("last", "tcl", "mean")
LAST_POSITION = ("last", "tcl")  # those that take the state at the last valid position


def read_out(hidden: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Reduces hidden states `(B, L, D)` over the valid positions of `mask` `(B, L)` to `(B, D)`.

    `last` takes the last valid position; so does `tcl`, whose callers end each history with the TCL row;
    `mean` averages all valid positions. A user without any position gets zeros.
    """
    if kind == "mean":
        weights = mask.to(hidden.dtype)
        total = torch.einsum("bld,bl->bd", hidden, weights)
        return total / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    if kind in LAST_POSITION:
        last = _last(mask)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, last.clamp(min=0)] * (last >= 0).to(hidden.dtype).unsqueeze(1)
    raise ValueError(f"Unknown readout {kind!r}.")


def valid_positions(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Where item rows `(B, L)` are no padding: not PAD, and not 0 in `attention_mask`; bool `(B, L)`."""
    valid = input_ids.ne(PAD)
    return valid if attention_mask is None else valid & attention_mask.bool()


def ending_together(input_ids: Tensor, valid: Tensor, *, positions: int) -> tuple[Tensor, Tensor]:
    """Shifts item rows `(B, L)` so that each user's last valid position is the last column; keeps `positions` columns.

    Returns the rows `(B, min(L, positions))`, PAD before a user's first, and where they are valid.
    """
    width = min(input_ids.shape[1], positions)
    places = _last(valid).unsqueeze(1) + torch.arange(1 - width, 1, device=valid.device)
    taken = places.clamp(min=0)
    valid = valid.gather(1, taken) & (places >= 0)
    return input_ids.gather(1, taken).masked_fill(~valid, PAD), valid


def read_users(
    encoder: Callable[..., Any],
    input_ids: Tensor,
    valid: Tensor,
    *,
    readout: str,
    reach: int | None,
    domain_ids: Tensor | None = None,
) -> Tensor:
    """Item rows `(B, L)` to user vectors `(B, D)` by an encoder (or a PeftModel around one).

    `reach` is `UserEncoder.reach(readout)`: with one, only the states that the last position depends on are computed.
    """
    if reach is None:
        output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids)
        return read_out(output.last_hidden_state, valid, readout)
    input_ids, valid = ending_together(input_ids, valid, positions=reach)
    output = encoder(input_ids=input_ids, attention_mask=valid, domain_ids=domain_ids, positions=1)
    return read_out(output.last_hidden_state, valid[:, -1:], readout)


def _last(valid: Tensor) -> Tensor:
    """The last valid position of each user `(B,)`, -1 where there is none."""
    positions = torch.arange(valid.shape[1], device=valid.device)
    return torch.where(valid.bool(), positions, -1).amax(dim=1)
