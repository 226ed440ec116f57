"""The columns of user states as files hold them: one layout, however the rings of convolutions are grouped."""

from collections.abc import Mapping

import torch
from torch import Tensor

from peterrec.encoders.increment import Increment
from peterrec.encoders.input_rings import in_slots, out_of_slots

SUMS = ("lengths", "last", "total", "domain_ids")  # the same in files
RINGS = ("inputs", "block_inputs")  # of convolutions, and of blocks that are wrapped as a whole


class StateSlots:
    """From columns to what a file holds, and back.

    A file has the columns `SUMS`, and in `inputs` and `block_inputs` `(users, size, width)` the past inputs of all
    layers, those of one layer after those of another: that of a user's event t in row `t mod span` of a layer's own.
    """

    def __init__(self, increment: Increment, rings: list[Tensor], sums: Mapping[str, Tensor]):
        self._increment = increment
        self._rings = rings
        self._sums = {name: sums[name] for name in SUMS if name in sums}
        self._at: dict[str, list[tuple[slice, int, int]]] = {name: [] for name in RINGS}  # rows, group, place there
        self._size = dict.fromkeys(RINGS, 0)
        self._width = dict.fromkeys(RINGS, increment.channels)
        for number, place in increment.order:
            group = increment.groups[number]
            name = RINGS[group.whole]
            first = self._size[name]
            self._size[name] += group.span
            self._width[name] = group.width
            self._at[name].append((slice(first, self._size[name]), number, place))

    def shapes(self) -> dict[str, Tensor]:
        """What a file must hold, tensors without memory."""
        users = len(self._sums["lengths"])
        storage = self._rings[0].dtype if self._rings else self._increment.dtype
        rings = {
            name: torch.empty(users, self._size[name], self._width[name], dtype=storage, device="meta")
            for name in RINGS
        }
        return rings | {name: torch.empty_like(own, device="meta") for name, own in self._sums.items()}

    def given(self) -> dict[str, Tensor]:
        """What a file is to hold."""
        found, lengths = dict(self._sums), self._sums["lengths"]
        for name, places in self._at.items():
            found[name] = torch.empty_like(self.shapes()[name], device=lengths.device)
            for rows, number, place in places:
                aged = self._increment.groups[number].aged(self._rings[number], place, lengths)
                found[name][:, rows] = in_slots(aged, lengths)
        return found

    @torch.inference_mode()
    def take(self, found: Mapping[str, Tensor]) -> None:
        """Copies what a file holds, of `shapes`, into the columns."""
        for name, column in self._sums.items():
            column.copy_(found[name])
        lengths = self._sums["lengths"]
        for name, places in self._at.items():
            for rows, number, place in places:
                aged = out_of_slots(found[name][:, rows].to(lengths.device), lengths)
                self._increment.groups[number].put(self._rings[number], place, aged, lengths)
