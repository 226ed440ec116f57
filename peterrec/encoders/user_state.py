"""What a causal encoder must remember of its users, so that one more event does not mean encoding all of them again."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peterrec.data.vocabulary import FIRST_ITEM, PAD, TCL
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.encoder_watch import EncoderWatch
from peterrec.encoders.increment import Increment
from peterrec.encoders.readout import READOUTS
from peterrec.encoders.state_columns import StateColumns
from peterrec.encoders.user_state_file import fill, read_state, write_state
from peterrec.errors import DataError, SettingsError, did_you_mean

STORAGES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Users = Tensor | Sequence[int]


class UserState:
    """The past inputs that a causal encoder still reads, of many users, and what their user vectors need.

    A new event costs one position instead of a history, and user vectors are exactly those of the whole history, read
    from its first event: of `last` and `tcl` the same as of the last `max_length` events wherever the receptive field
    is no larger (`config.receptive_field`); `mean` is over all events, not only the last `max_length`.

    Each convolution keeps its last `(kernel_size - 1) · dilation` inputs, a block that is wrapped as a whole all that
    its convolutions reach; beside them the last state, the sum of all states and their number: `bytes_per_user`.
    16 convolutions with dilations 1, 2, 4, 8, … of 64 channels are 31 kB in float32. With `storage` torch.float16 the
    inputs take half of that and are rounded to 11 bits (user vectors then agree to about 1e-3 of their size).

    Everything is computed in the type of the encoder, without dropout and whatever autocast says. A state belongs to
    the encoder as it was: when weights, adapters or modules have changed, every use of it raises SettingsError.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        users: int,
        domain_ids: Tensor | None = None,
        storage: torch.dtype | None = None,
    ):
        self.encoder = encoder
        self._base = _base_of(encoder)
        self._increment = Increment(self._base)
        self._watch = EncoderWatch(self._base)
        self._check()
        storage = self._increment.dtype if storage is None else storage
        if storage not in STORAGES:
            raise SettingsError(f"storage must be one of {', '.join(map(str, STORAGES))}, got {storage}.")
        if domain_ids is not None and (domain_ids.dtype != torch.long or domain_ids.shape != (users,)):
            raise SettingsError(f"domain_ids must be a torch.long tensor ({users},), one domain a user.")
        self._columns = StateColumns.empty(self._increment, users=users, domain_ids=domain_ids, storage=storage)

    @classmethod
    def empty(
        cls,
        encoder: nn.Module,
        *,
        users: int,
        domain_ids: Tensor | None = None,
        storage: torch.dtype | None = None,
    ) -> "UserState":
        """The state of `users` users who have had no event, each in a domain of `domain_ids` `(users,)` if given.

        `encoder` is a causal encoder in evaluation mode, or a PeftModel around one, with the adapter active that is
        meant. `storage` is the type in which past inputs are kept, by default the encoder's.
        Raises SettingsError for a two-sided encoder, or one in training mode.
        """
        return cls(encoder, users=users, domain_ids=domain_ids, storage=storage)

    @classmethod
    def of(
        cls,
        encoder: nn.Module,
        input_ids: Tensor,
        *,
        domain_ids: Tensor | None = None,
        storage: torch.dtype | None = None,
    ) -> "UserState":
        """The state of users with the histories `input_ids` `(B, L)`, whole ones; PAD stands for no event, anywhere.

        Otherwise as `empty`; raises DataError for rows that are no items.
        """
        if input_ids.dim() != 2:
            raise DataError(f"input_ids must be item rows (users, events), but has the shape {tuple(input_ids.shape)}.")
        state = cls(encoder, users=len(input_ids), domain_ids=domain_ids, storage=storage)
        _check_items(input_ids, vocab_size=state._base.config.vocab_size)
        state._columns.encode(input_ids.to(state._increment.device).long())
        return state

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._columns.all)

    @property
    def lengths(self) -> Tensor:
        """How many events each user has had, `(users,)`, PAD not counted."""
        return self._columns.tensors["lengths"].clone()

    @property
    def bytes_per_user(self) -> int:
        """Memory that each user takes."""
        return sum(own.shape[1:].numel() * own.element_size() for own in self._columns.tensors.values())

    def append(self, items: Tensor, *, users: Users | None = None) -> None:
        """One more event of each of `users`, by default of all: the item rows `items` `(n,)`, PAD for no new event.

        The same user twice is an error: events of one user are appended one after the other. Items on a device are
        waited for, since they are checked; give them from the host. Raises DataError for rows that are no items.
        """
        self._check()
        places = self._places(users, once=True)
        if items.shape != places.shape:
            raise DataError(
                f"append takes one item a user, {len(places)} of them, but items has the shape {tuple(items.shape)}."
            )
        if not _check_items(items, vocab_size=self._base.config.vocab_size):
            new = items.ne(PAD)
            items, places = items[new], places[new.to(places.device)]
        if len(items):
            self._columns.advance(items.to(self._increment.device).long(), places, remember=True)

    def vectors(self, readout: str | None = None, *, users: Users | None = None) -> Tensor:
        """User vectors `(n, D)` of `users`, by default of all, and by the encoder's own readout.

        `tcl` reads the TCL row as if it came next, without remembering it. A user without events gets zeros (for `tcl`
        the state of that row alone).
        """
        self._check()
        kind: str = self._base.config.readout if readout is None else readout
        if kind not in READOUTS:
            raise SettingsError(f"There is no readout {kind!r}. {did_you_mean(kind, READOUTS)}")
        places = self._places(users)
        if kind == "tcl":
            return self._columns.advance(torch.full_like(places, TCL), places, remember=False).clone()
        own = self._columns.tensors
        if kind == "last":
            return own["last"].index_select(0, places)
        lengths = own["lengths"].index_select(0, places).clamp(min=1)
        return (own["total"].index_select(0, places) / lengths.unsqueeze(1)).to(self._increment.dtype)

    def select(self, users: Users) -> "UserState":
        """A copy of some users, in that order."""
        state = copy(self)  # the encoder and what was made of it are shared
        state._columns = self._columns.select(self._places(users))
        return state

    def put(self, users: Users, other: "UserState") -> None:
        """Puts the users of `other`, a state of the same encoder, in the place of `users` `(len(other),)`."""
        self._check()
        other._check()
        own, theirs = self._columns.tensors, other._columns.tensors
        if other._base is not self._base or own.keys() != theirs.keys():
            raise SettingsError("put takes users of the same encoder, with domain_ids in both states or in neither.")
        places = self._places(users, once=True)
        if len(places) != len(other):
            raise DataError(f"put was given {len(places)} places for {len(other)} users.")
        for name, column in own.items():
            column.index_copy_(0, places, theirs[name].to(column.dtype))

    def save(self, path: Path | str) -> None:
        """Writes the state to a safetensors file, whole or not at all; raises ResourceError where the disk is full."""
        self._check()
        write_state(self._columns.tensors, Path(path), encoder=self.encoder, base=self._base)

    @classmethod
    def load(cls, path: Path | str, encoder: nn.Module) -> "UserState":
        """The state saved in a file, for the encoder that it was made with, the same adapter active.

        Raises SettingsError where there is no file, RefusedError where it is damaged or of another encoder, adapter or
        vocabulary.
        """
        path = Path(path)
        found = read_state(path, encoder=encoder, base=_base_of(encoder))
        users = found["lengths"].numel() if "lengths" in found else 0
        domain_ids = torch.zeros(users, dtype=torch.long) if "domain_ids" in found else None
        storage = next((kind for kind in STORAGES if "inputs" in found and found["inputs"].dtype == kind), None)
        state = cls(encoder, users=users, domain_ids=domain_ids, storage=storage)
        fill(state._columns.tensors, found, path=path)
        return state

    def _check(self) -> None:
        """Raises SettingsError where the encoder is not what it was, or would drop out."""
        if self._base.training:
            raise SettingsError("The encoder is in training mode, in which it drops out at random: call eval() first.")
        if not self._watch.unchanged():
            raise SettingsError(
                "The encoder has changed since this state was made (weights, modules or active adapters), and what it "
                "remembers is of the old one. Make a new state from the histories: UserState.of."
            )

    def _places(self, users: Users | None, *, once: bool = False) -> Tensor:
        """Which rows of the columns are meant; raises DataError for users that are not there, or there twice."""
        if users is None:
            return self._columns.all
        places = users if isinstance(users, Tensor) else torch.as_tensor(users, dtype=None if users else torch.long)
        if places.dim() != 1 or places.is_floating_point() or places.dtype == torch.bool:
            raise DataError(f"users must be whole numbers (n,), got {places.dtype} {tuple(places.shape)}.")
        places = places.long()
        if len(places):
            low, high = map(int, places.aminmax())
            if low < 0 or high >= len(self):
                wrong = low if low < 0 else high
                raise DataError(f"users names user {wrong}, but this state holds the users 0 to {len(self) - 1}.")
            if once and len(places) > 1 and len(places.unique()) < len(places):
                raise DataError("users names a user twice. Take each once, and further events in calls of their own.")
        return places.to(self._increment.device)


def _base_of(encoder: nn.Module) -> UserEncoder:
    """The encoder itself, a tuner's layers inside; raises SettingsError for what is none, or changes its input."""
    if isinstance(encoder, UserEncoder):
        return encoder
    model: Any = encoder  # peft's own class is not known here
    base = model.get_base_model() if hasattr(model, "get_base_model") else None
    if not isinstance(base, UserEncoder):
        raise SettingsError(
            f"A user state needs a UserEncoder or a PeftModel around one, got {type(encoder).__name__}."
        )
    if any(config.is_prompt_learning for config in model.peft_config.values()):
        raise SettingsError("Adapters that put a prompt before the history keep no user state.")
    return base


def _check_items(rows: Tensor, *, vocab_size: int) -> bool:
    """Whether all of these are items; False where some are PAD. Raises DataError where any is something else."""
    if rows.dtype not in (torch.long, torch.int32):
        raise DataError(f"Item rows must be whole numbers (torch.long or torch.int32), got {rows.dtype}.")
    if not rows.numel():
        return True
    low, high = map(int, rows.aminmax())
    if low >= FIRST_ITEM and high < vocab_size:
        return True
    wrong = (rows != PAD) & ((rows < FIRST_ITEM) | (rows >= vocab_size))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        row = int(rows[tuple(place)])
        what = "which vectors('tcl') reads by itself" if row == TCL else "which is no item"
        raise DataError(
            f"User {place[0]} has the vocabulary row {row}, {what}: items have the rows {FIRST_ITEM} to "
            f"{vocab_size - 1}, and {PAD} stands for no event."
        )
    return False
