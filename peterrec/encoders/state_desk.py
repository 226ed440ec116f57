"""Room for the steps of a user state, kept from one step to the next: new memory each time costs more than its use."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peterrec.encoders.increment import Increment
from peterrec.encoders.input_rings import Lines


class StateDesk:
    """Where B users' products of past taps go, and copies of the lines that they read."""

    def __init__(self, increment: Increment, rings: Sequence[Tensor], *, users: int):
        self.users = users
        self.products = increment.products(users)
        self._increment = increment
        self._rings = rings
        self._copies: list[Tensor] | None = None
        self._lines: list[Lines] = []
        self._rows: Sequence[Tensor] = ()

    def copy_out(self, places: Tensor, clock: Tensor) -> list[Lines]:
        """Copies of the lines that the next event of the users at `places` reads, `clock` being those they have had."""
        if self._copies is None:
            self._copies = [ring.new_empty(self.users, *ring.shape[2:]) for ring in self._rings]
            groups = self._increment.groups
            self._lines = [group.lines(copy) for group, copy in zip(groups, self._copies, strict=True)]
        dilations = self._increment.dilations
        self._rows = torch.remainder(clock, dilations).add_(places * dilations).unbind(0)
        for ring, copy, rows in zip(self._rings, self._copies, self._rows, strict=True):
            torch.index_select(ring.flatten(0, 1), 0, rows, out=copy)
        return self._lines

    def copy_back(self) -> None:
        """Puts the copies back where they came from."""
        for ring, copy, rows in zip(self._rings, self._copies or (), self._rows, strict=True):
            ring.flatten(0, 1).index_copy_(0, rows, copy)
