"""Clearing the padded rows of time-major matrices, at a cost that goes with the padding."""

import torch
from torch import Tensor

from peterrec.encoders.bare import traces

FEW = 8  # up to one row in so many, picking them beats a pass over all


class Padding:
    """Which rows of a flat time-major matrix are padding; from a mask `(B, L, 1)` that is 0 there.

    On the CPU they are listed if they are few; a device would have to be waited for, so there the mask is multiplied.
    """

    def __init__(self, mask: Tensor, *, positions: int | None = None):
        own = mask if positions is None else mask[:, -positions:]
        self._mask = own.transpose(0, 1).reshape(-1, 1)
        self._rows: Tensor | None = None
        if mask.device.type == "cpu":
            rows = (self._mask.view(-1) == 0).nonzero().squeeze(1)
            self._rows = rows if len(rows) * FEW <= len(self._mask) else None

    def clear_(self, matrix: Tensor) -> Tensor:
        """Zeroes the padded rows of `(L · B, C)` in place and returns it."""
        if self._rows is not None:
            return matrix.index_fill_(0, self._rows, 0.0)
        return matrix.mul_(self._mask.to(matrix.dtype))


def stands_on_the_right(valid: Tensor) -> bool:
    """Whether in each row of `valid` `(B, L)` all padding follows the last valid position. Waits for a device."""
    return not bool((valid[:, 1:] > valid[:, :-1]).any())


def is_readable(tensor: Tensor) -> bool:
    """Whether a decision may rest on the tensor's values: on the CPU, and not while torch records the program."""
    return tensor.device.type == "cpu" and not traces()


class PaddingLast:
    """Moves the padding of rows `(B, L, …)` behind what is valid, and back; `valid` is `(B, L)`. Waits for no device.

    Only the first `keep` columns are kept, which must hold all that is valid.
    """

    def __init__(self, valid: Tensor, *, keep: int | None = None):
        before = valid.cumsum(dim=1)
        padded = torch.arange(1, valid.shape[1] + 1, device=valid.device) - before
        self._keep = keep
        self._places = torch.where(valid, before, before[:, -1:] + padded).sub(1).t()  # time-major, as what is moved

    def move(self, rows: Tensor) -> Tensor:
        """`(B, L, …)` to `(B, min(L, keep), …)`, padding last."""
        rows = rows.transpose(0, 1)
        moved = torch.empty_like(rows, memory_format=torch.contiguous_format).scatter(0, self._of(rows), rows)
        return moved[: self._keep].transpose(0, 1)

    def back(self, rows: Tensor) -> Tensor:
        """What `move` gave to `(B, L, …)`, each row in its old place; at padding it means nothing."""
        rows = rows.transpose(0, 1)
        return rows.gather(0, self._of(rows).clamp(max=rows.shape[0] - 1)).transpose(0, 1)

    def _of(self, rows: Tensor) -> Tensor:
        """The places, as often as there are channels."""
        places = self._places
        return places.view(*places.shape, *[1] * (rows.dim() - 2)).expand(*places.shape, *rows.shape[2:])
