"""The tensors of a user state, one row a user in each, and how new events change them."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from peterrec.data.vocabulary import PAD
from peterrec.encoders.increment import Increment

USERS_AT_ONCE = {"cpu": 512}  # a few megabytes of activations
POSITIONS_AT_ONCE = {"cpu": 2**15}
MANY = 2**18  # on an accelerator


class StateColumns:
    """Past inputs `(users, size, width)` of convolutions and of whole blocks, `lengths` `(users,)`, the `last` state
    and the `total` of all states `(users, D)`, and `domain_ids` `(users,)` if there are domains."""

    def __init__(self, increment: Increment, tensors: dict[str, Tensor]):
        self.increment = increment
        self.tensors = tensors
        self.all = torch.arange(len(tensors["lengths"]), device=increment.device)
        self._memory = [tensors[name].view(-1, tensors[name].shape[2]) for name in ("inputs", "block_inputs")]

    @classmethod
    def empty(
        cls, increment: Increment, *, users: int, domain_ids: Tensor | None, storage: torch.dtype
    ) -> "StateColumns":
        """Those of users who have had no event; past inputs are kept as `storage`."""
        device, dtype, width = increment.device, increment.dtype, increment.block_rings.width
        sums = torch.promote_types(dtype, torch.float32)
        rings, wide = increment.rings, increment.block_rings
        tensors = {
            "inputs": torch.zeros(users, rings.size, rings.width, dtype=storage, device=device),
            "block_inputs": torch.zeros(users, wide.size, wide.width, dtype=storage, device=device),
            "lengths": torch.zeros(users, dtype=torch.long, device=device),
            "last": torch.zeros(users, width, dtype=dtype, device=device),
            "total": torch.zeros(users, width, dtype=sums, device=device),
        }
        if domain_ids is not None:
            tensors["domain_ids"] = domain_ids.detach().to(device, copy=True)
        return cls(increment, tensors)

    def select(self, places: Tensor) -> "StateColumns":
        """A copy of the users at `places`."""
        return StateColumns(self.increment, {name: own.index_select(0, places) for name, own in self.tensors.items()})

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

    def _encode(self, part: slice, ids: Tensor) -> None:
        own = {name: column[part] for name, column in self.tensors.items()}
        memory = [own[name].view(-1, own[name].shape[2]) for name in ("inputs", "block_inputs")]
        hidden, valid = self.increment.encoder.embed(ids)
        states = self.increment.encode(hidden, valid, own.get("domain_ids"), memory)
        states = states * valid.unsqueeze(2)
        own["lengths"].copy_(valid.sum(dim=1))
        own["last"].copy_(states[:, -1])
        own["total"].copy_(states.sum(dim=1, dtype=own["total"].dtype))

    @torch.inference_mode()
    def advance(self, items: Tensor, places: Tensor, *, remember: bool) -> Tensor:
        """The states `(n, D)` of the users at `places` after one more event each, `items` `(n,)`, none of them PAD."""
        at_once = USERS_AT_ONCE.get(self.increment.device.type, MANY)
        with self._own_precision():
            if len(places) <= at_once:
                return self._advance(items, places, remember=remember)
            parts = zip(items.split(at_once), places.split(at_once), strict=True)
            return torch.cat([self._advance(*part, remember=remember) for part in parts])

    def _advance(self, items: Tensor, places: Tensor, *, remember: bool) -> Tensor:
        own, increment = self.tensors, self.increment
        clock = own["lengths"].index_select(0, places)
        domain_ids = own["domain_ids"].index_select(0, places) if "domain_ids" in own else None
        hidden = increment.advance(increment.embed(items), clock, places, domain_ids, self._memory, remember=remember)
        if remember:
            own["last"].index_copy_(0, places, hidden)
            own["total"].index_add_(0, places, hidden.to(own["total"].dtype))
            own["lengths"].index_copy_(0, places, clock + 1)
        return hidden

    def _own_precision(self) -> AbstractContextManager[object]:
        """The type of the encoder, whatever autocast says outside."""
        kind = self.increment.device.type
        return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
