"""What layers remember of their past inputs: for each user and layer a ring, all in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Places of past inputs in the rings: how many events back, the ring's size and its first row, of one shape."""

    back: Tensor
    size: Tensor
    first: Tensor

    def rows(self, clock: Tensor, offset: Tensor) -> Tensor:
        """Their rows in the memory, `clock` being the events that each user has had, `offset` its first row.

        Both must broadcast against the places. An input from before the first event is in a row that is still zero.
        """
        return torch.remainder(clock - self.back, self.size).add_(self.first).add_(offset)


class InputRings:
    """Rings for layers that read their last `spans` inputs of one width: how the rows of a user are laid out.

    The memory is a tensor `(users · size, width)`, one user after the other, so that users are cheap to pick. The input
    of event t stands in row `t mod span` of a layer's ring, where it stays for as long as the layer still reads it.
    """

    def __init__(self, spans: Sequence[int], *, width: int, device: torch.device):
        self.spans = tuple(spans)
        self.width = width
        self.size = sum(self.spans)
        self._device = device
        self._firsts = [0, *accumulate(self.spans)]

    def memory(self, users: int, dtype: torch.dtype) -> Tensor:
        """Empty rings of that many users: zeros `(users · size, width)`."""
        return torch.zeros(users * self.size, self.width, dtype=dtype, device=self._device)

    def places(self, layers: Sequence[int], backs: Sequence[int], *shape: int) -> Places:
        """The inputs that the layers took so many events ago, one layer and one number a place, in that shape."""
        sizes = [self.spans[layer] for layer in layers]
        firsts = [self._firsts[layer] for layer in layers]
        back, size, first = (
            torch.tensor(values, dtype=torch.long, device=self._device).view(shape) for values in (backs, sizes, firsts)
        )
        return Places(back, size, first)
