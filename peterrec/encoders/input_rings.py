"""What layers remember of their past inputs: for each user and layer a ring of lines, one line read at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peterrec.encoders.dilated import DilatedConv

Kind = tuple[str, bool, int, int, int]
FEW = 4  # taps that move up one by one


@dataclass(frozen=True)
class Ring:
    """What one convolution, or one block as a whole, remembers: its last `taps · dilation` inputs of a width.

    `reads` says in what form its step is given them. A convolution of which taps alone are read has lines of those
    taps; what is read whole, a window, has one line, of dilation 1.
    """

    reads: str  # product, taps or window
    whole: bool  # of a whole block
    taps: int
    dilation: int
    width: int
    conv: DilatedConv | None  # that the taps are of

    @property
    def span(self) -> int:
        """How many past inputs are remembered."""
        return self.taps * self.dilation

    @property
    def kind(self) -> Kind:
        """What rings of one group have in common."""
        return self.reads, self.whole, self.taps, self.dilation, self.width


class RingGroup:
    """n rings of one kind, whose memory is one tensor `(users, dilation, n, taps · width)`.

    The input of a user's event t goes into line `t mod dilation`, whose older inputs move up by one: a line holds what
    the convolutions read beside the input of event t, oldest first, and is contiguous for all of them. Before the
    first event there are zeros.
    """

    def __init__(self, rings: Sequence[Ring]):
        self.reads, self.whole, self.taps, self.dilation, self.width = rings[0].kind
        self.rings = tuple(rings)
        self.span = self.taps * self.dilation

    def empty(self, users: int, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The memory of users who have had no event."""
        width = self.taps * self.width
        return torch.zeros(users, self.dilation, len(self.rings), width, dtype=dtype, device=device)

    def lines(self, numbers: Tensor) -> "Lines":
        """One line of each of B users, `(B, n, taps · width)`."""
        return Lines(numbers, taps=self.taps)

    def put(self, memory: Tensor, place: int, inputs: Tensor, clock: Tensor) -> None:
        """Writes the last inputs `(users, n, width)` of a ring, oldest first, n at most `span`.

        `clock` `(users,)` are the events that the users have had; what stands in for earlier ones must be zero.
        """
        users, given, width = inputs.shape
        aged = inputs.new_zeros(users, self.span, width)
        aged[:, self.span - given :] = inputs
        lines = aged.view(users, self.taps, self.dilation, width).transpose(1, 2)
        memory[:, :, place].copy_(_turned(lines, -clock).reshape(users, self.dilation, -1))

    def aged(self, memory: Tensor, place: int, clock: Tensor) -> Tensor:
        """The last inputs `(users, span, width)` of a ring, oldest first."""
        lines = memory[:, :, place].unflatten(2, (self.taps, self.width))
        return _turned(lines, clock).transpose(1, 2).reshape(len(memory), self.span, self.width)


class Lines:
    """A line of each of B users in one group, `(B, n, taps · width)`, in their memory or out of it, as it is used."""

    def __init__(self, numbers: Tensor, *, taps: int):
        self.matrices = numbers.transpose(0, 1)  # (n, B, taps · width)
        self.each = self.matrices.unbind(0)
        self._inputs = numbers.unflatten(2, (taps, -1))
        self.newest = self._inputs[:, :, -1].unbind(1)  # (B, width) of each ring
        self._moves = [(self._inputs[:, :, tap], self._inputs[:, :, tap + 1]) for tap in range(min(taps, FEW) - 1)]
        self._few = taps <= FEW

    def move_up(self) -> None:
        """Makes room for new inputs, the `newest`: the others move up, and the oldest go."""
        if self._few:
            for older, newer in self._moves:
                older.copy_(newer)
        else:
            self._inputs[:, :, :-1] = self._inputs[:, :, 1:].clone()  # they overlap


def in_slots(aged: Tensor, clock: Tensor) -> Tensor:
    """Inputs `(users, span, width)`, oldest first, to that of event t in slot `t mod span`, as files hold them."""
    return _turned(aged, -clock)


def out_of_slots(slots: Tensor, clock: Tensor) -> Tensor:
    """The other way."""
    return _turned(slots, clock)


def _turned(x: Tensor, by: Tensor) -> Tensor:
    """`(users, n, …)` with row `(k + by) mod n` of each user in row k; `by` `(users,)`."""
    rows = torch.remainder(torch.arange(x.shape[1], device=x.device) + by.unsqueeze(1), x.shape[1])
    return x.gather(1, rows.view(*rows.shape, *(1,) * (x.dim() - 2)).expand_as(x))
