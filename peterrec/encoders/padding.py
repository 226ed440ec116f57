"""Clearing the padded rows of time-major matrices, at a cost that goes with the padding."""

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
