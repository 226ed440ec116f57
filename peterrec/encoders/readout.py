"""How hidden states become one vector a user."""

import torch
from torch import Tensor

READOUTS = ("last", "tcl", "mean")


def read_out(hidden: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Reduces hidden states `(B, L, D)` over the valid positions of `mask` `(B, L)` to `(B, D)`.

    `last` takes the last valid position; so does `tcl`, whose callers end each history with the TCL row;
    `mean` averages all valid positions. A user without any position gets zeros.
    """
    if kind == "mean":
        weights = mask.to(hidden.dtype)
        total = torch.einsum("bld,bl->bd", hidden, weights)
        return total / weights.sum(dim=1, keepdim=True).clamp(min=1.0)
    if kind in ("last", "tcl"):
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = torch.where(mask.bool(), positions, -1).amax(dim=1)
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return hidden[rows, last.clamp(min=0)] * (last >= 0).to(hidden.dtype).unsqueeze(1)
    raise ValueError(f"Unknown readout {kind!r}.")
