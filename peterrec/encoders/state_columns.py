"""The tensors of a user state, one row a user in each, and how new events change them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from peterrec.data.vocabulary import PAD
from peterrec.encoders.increment import Increment
from peterrec.encoders.input_rings import Lines
from peterrec.encoders.state_desk import StateDesk
from peterrec.encoders.state_slots import StateSlots

USERS_AT_ONCE = {"cpu": 512}  # a few megabytes of activations
POSITIONS_AT_ONCE = {"cpu": 2**15}
MANY = 2**18  # on an accelerator


class StateColumns:
    """The rings of each of the increment's groups, `lengths` `(users,)`, the `last` state and the `total` of all states
    `(users, D)`, and `domain_ids` `(users,)` if there are domains.

    Users who have had equally many events read the same lines of their rings. A step of all users together then works
    on the rings where they stand; any other one on copies of the lines that it reads.
    """

    def __init__(self, increment: Increment, tensors: dict[str, Tensor]):
        self.increment = increment
        self.tensors = tensors
        self._rings = [tensors[f"rings{number}"] for number in range(len(increment.groups))]
        self._desks: list[StateDesk] = []  # taken and given back whole, so that reading in several threads is safe
        self._standing: dict[tuple[int, int], Lines] = {}
        self._clock: int | None = None
        self.look()

    @classmethod
    def empty(
        cls, increment: Increment, *, users: int, domain_ids: Tensor | None, storage: torch.dtype
    ) -> "StateColumns":
        """Those of users who have had no event; past inputs are kept as `storage`."""
        device, dtype, width = increment.device, increment.dtype, increment.channels
        sums = torch.promote_types(dtype, torch.float32)
        tensors = {
            f"rings{number}": group.empty(users, dtype=storage, device=device)
            for number, group in enumerate(increment.groups)
        }
        tensors["lengths"] = torch.zeros(users, dtype=torch.long, device=device)
        tensors["last"] = torch.zeros(users, width, dtype=dtype, device=device)
        tensors["total"] = torch.zeros(users, width, dtype=sums, device=device)
        if domain_ids is not None:
            tensors["domain_ids"] = domain_ids.detach().to(device, copy=True)
        return cls(increment, tensors)

    def __len__(self) -> int:
        return len(self.tensors["lengths"])

    @property
    def slots(self) -> StateSlots:
        """The columns as files hold them; after taking some over, `look`."""
        return StateSlots(self.increment, self._rings, self.tensors)

    def look(self) -> None:
        """Finds out whether all users have had equally many events; a device is waited for."""
        self._clock = None
        if len(self):
            low, high = map(int, self.tensors["lengths"].aminmax())
            self._clock = low if low == high else None

    def select(self, places: Tensor) -> "StateColumns":
        """A copy of the users at `places`."""
        return StateColumns(self.increment, {name: own.index_select(0, places) for name, own in self.tensors.items()})

    @torch.inference_mode()
    def put(self, places: Tensor, other: "StateColumns") -> None:
        """Copies the users of `other`, which may be these columns, to `places`."""
        for name, column in self.tensors.items():
            theirs = other.tensors[name]
            column.index_copy_(0, places, (theirs.clone() if theirs is column else theirs).to(column.dtype))
        self.look()

    @torch.inference_mode()
    def encode(self, input_ids: Tensor) -> None:
        """Fills the columns from whole histories `(users, L)`, PAD being no event."""
        device = self.increment.device
        at_once = max(1, POSITIONS_AT_ONCE.get(device.type, MANY) // max(1, input_ids.shape[1]))
        with self._own_precision():
            for start in range(0, len(input_ids) if input_ids.shape[1] else 0, at_once):
                part = slice(start, start + at_once)
                ids = input_ids[part]
                ids = ids.gather(1, ids.ne(PAD).byte().argsort(dim=1, stable=True))  # the events last, in their order
                self._encode(part, ids)
        self.look()

    def _encode(self, part: slice, ids: Tensor) -> None:
        own = {name: column[part] for name, column in self.tensors.items()}
        hidden, valid = self.increment.encoder.embed(ids)
        states = self.increment.encode(hidden, valid, own.get("domain_ids"), [ring[part] for ring in self._rings])
        states = states * valid.unsqueeze(2)
        own["lengths"].copy_(valid.sum(dim=1))
        own["last"].copy_(states[:, -1])
        own["total"].copy_(states.sum(dim=1, dtype=own["total"].dtype))

    @torch.inference_mode()
    def advance(self, items: Tensor, places: Tensor | None, *, remember: bool) -> Tensor:
        """The states `(n, D)` of the users at `places`, None for all, after one more event each.

        `items` `(n,)` are its rows, none of them PAD.
        """
        at_once = USERS_AT_ONCE.get(self.increment.device.type, MANY)
        with self._own_precision():
            if places is None:
                if self._clock is None and self.increment.device.type == "cpu":
                    self.look()
                if self._clock is not None:
                    return self._advance_all(items, self._clock, at_once=at_once, remember=remember)
                places = torch.arange(len(self), device=self.increment.device)
            if remember:
                self._clock = None
            if len(places) <= at_once:
                return self._advance_some(items, places, remember=remember)
            parts = zip(items.split(at_once), places.split(at_once), strict=True)
            return torch.cat([self._advance_some(*part, remember=remember) for part in parts])

    def _advance_all(self, items: Tensor, clock: int, *, at_once: int, remember: bool) -> Tensor:
        """Those of all users, who have had `clock` events each."""
        phases = [clock % group.dilation for group in self.increment.groups]
        if len(self) <= at_once:
            hidden = self._step(items, self._standing_lines(phases), self.tensors, remember=remember)
        else:
            parts = []
            for start in range(0, len(self), at_once):
                part = slice(start, start + at_once)
                lines = [
                    group.lines(ring[part, phase])
                    for group, ring, phase in zip(self.increment.groups, self._rings, phases, strict=True)
                ]
                own = {name: self.tensors[name][part] for name in self.tensors}
                parts.append(self._step(items[part], lines, own, remember=remember))
            hidden = torch.cat(parts)
        if remember:
            self.tensors["last"].copy_(hidden)
            self.tensors["total"].add_(hidden)
            self.tensors["lengths"].add_(1)
            self._clock = clock + 1
        return hidden

    def _standing_lines(self, phases: list[int]) -> list[Lines]:
        """The lines of all users at these phases of the groups, where they stand."""
        found = []
        for number, phase in enumerate(phases):
            lines = self._standing.get((number, phase))
            if lines is None:
                lines = self.increment.groups[number].lines(self._rings[number][:, phase])
                self._standing[number, phase] = lines
            found.append(lines)
        return found

    def _step(self, items: Tensor, lines: list[Lines], own: dict[str, Tensor], *, remember: bool) -> Tensor:
        desk = self._desk(len(items))
        increment = self.increment
        hidden = increment.advance(
            increment.embed(items), lines, desk.products, own["lengths"], own.get("domain_ids"), remember=remember
        )
        self._desks.append(desk)
        return hidden

    def _advance_some(self, items: Tensor, places: Tensor, *, remember: bool) -> Tensor:
        own, increment, desk = self.tensors, self.increment, self._desk(len(places))
        clock = own["lengths"].index_select(0, places)
        domain_ids = own["domain_ids"].index_select(0, places) if "domain_ids" in own else None
        lines = desk.copy_out(places, clock)
        hidden = increment.advance(increment.embed(items), lines, desk.products, clock, domain_ids, remember=remember)
        if remember:
            desk.copy_back()
            own["last"].index_copy_(0, places, hidden)
            own["total"].index_add_(0, places, hidden.to(own["total"].dtype))
            own["lengths"].index_copy_(0, places, clock + 1)
        self._desks.append(desk)
        return hidden

    def _desk(self, users: int) -> StateDesk:
        """Room for a step of that many users; nobody else's until it is given back."""
        try:
            desk = self._desks.pop()
        except IndexError:
            desk = None
        if desk is None or desk.users != users:
            desk = StateDesk(self.increment, self._rings, users=users)
        return desk

    def _own_precision(self) -> AbstractContextManager[object]:
        """The type of the encoder, whatever autocast says outside."""
        kind = self.increment.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
