"""What a causal encoder must remember of its users, so that one more event does not mean encoding all of them again."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from peterrec.data.vocabulary import PAD, TCL
from peterrec.encoders.bare import is_bare
from peterrec.encoders.encoder_watch import EncoderWatch
from peterrec.encoders.increment import Increment, base_of
from peterrec.encoders.readout import READOUTS, Readout
from peterrec.encoders.state_columns import StateColumns
from peterrec.encoders.state_inputs import Numbers, check_items, places_of, tensor_of
from peterrec.encoders.user_state_file import fill, read_state, write_state
from peterrec.errors import DataError, SettingsError, did_you_mean

DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
KEPT = ("last", "tcl", "mean", "sqrtn")  # readouts
_OTHERWISE = f"Name one of {', '.join(KEPT)}, which read the top layer, or encode the histories as a whole."
STORAGES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class UserState:
    """The past inputs that a causal encoder still reads, of many users, and what their user vectors need.

    A new event costs one position instead of a history, and user vectors are exactly those of the whole history, read
    from its first event: of `last` and `tcl` the same as of the last `max_length` events wherever the receptive field
    is no larger (`config.receptive_field`); `mean` and `sqrtn` are over all events, not only the last `max_length`.

    Each convolution keeps its last `(kernel_size - 1) · dilation` inputs, a block that is wrapped as a whole all that
    its convolutions reach; beside them the last state, the sum of all states and their number: `bytes_per_user`.
    16 convolutions with dilations 1, 2, 4, 8, … of 64 channels are 31 kB in float32. With `storage` torch.float16 the
    inputs take half of that and are rounded to 11 bits (user vectors then agree to about 1e-3 of their size).

    Users who have had equally many events are quickest when they go on together, in one call without `users`.

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
        self._base = base_of(encoder)
        self._increment = Increment(self._base)
        self._watch = EncoderWatch(encoder)
        self._dropouts = [module for module in self._base.modules() if isinstance(module, DROPOUTS)]
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
        input_ids: Tensor | NDArray[np.integer] | Sequence[Sequence[int]],
        *,
        domain_ids: Tensor | None = None,
        storage: torch.dtype | None = None,
    ) -> "UserState":
        """The state of users with the histories `input_ids` `(B, L)`, whole ones; PAD stands for no event, anywhere.

        Otherwise as `empty`; raises DataError for rows that are no items.
        """
        rows = tensor_of(input_ids, name="input_ids")
        if rows.dim() != 2:
            raise DataError(f"input_ids must be item rows (users, events), but has the shape {tuple(rows.shape)}.")
        state = cls(encoder, users=len(rows), domain_ids=domain_ids, storage=storage)
        check_items(rows, vocab_size=state._base.config.vocab_size)
        state._columns.encode(rows.to(state._increment.device).long())
        return state

    def __len__(self) -> int:
        """How many users there are."""
        return len(self._columns)

    @property
    def lengths(self) -> Tensor:
        """How many events each user has had, `(users,)`, PAD not counted."""
        return self._columns.tensors["lengths"].clone()

    @property
    def bytes_per_user(self) -> int:
        """Memory that each user takes."""
        return sum(own.shape[1:].numel() * own.element_size() for own in self._columns.tensors.values())

    def append(self, items: Numbers, *, users: Numbers | None = None) -> None:
        """One more event of each of `users`, by default of all: the item rows `items` `(n,)`, PAD for no new event.

        The same user twice is an error: events of one user are appended one after the other. Items on a device are
        waited for, since they are checked; give them from the host. Raises DataError for rows that are no items.
        """
        self._check()
        places = self._places(users, once=True)
        rows = tensor_of(items, name="items")
        count = len(self) if places is None else len(places)
        if rows.shape != (count,):
            raise DataError(
                f"append takes one item a user, {count} of them, but items has the shape {tuple(rows.shape)}."
            )
        if not check_items(rows, vocab_size=self._base.config.vocab_size):
            new = rows.ne(PAD)
            moved = new.to(self._increment.device)
            places = moved.nonzero().squeeze(1) if places is None else places[moved]
            rows = rows[new]
        if len(rows):
            self._columns.advance(rows.to(self._increment.device).long(), places, remember=True)

    def vectors(self, readout: str | None = None, *, users: Numbers | None = None) -> Tensor:
        """User vectors `(n, D)` of `users`, by default of all, and by the encoder's own readout.

        `tcl` reads the TCL row as if it came next, without remembering it. A user without events gets zeros (for `tcl`
        the state of that row alone). The top layer is read: SettingsError for other readouts than `last`, `tcl`, `mean`
        and `sqrtn`, and where the encoder's own reads other layers.
        """
        self._check()
        kind = self._own_readout() if readout is None else readout
        if kind not in KEPT:
            hint = _OTHERWISE if kind in READOUTS else did_you_mean(kind, KEPT)
            raise SettingsError(f"User states have no readout {kind!r}. {hint}")
        places = self._places(users)
        if kind == "tcl":
            count = len(self) if places is None else len(places)
            tcl = torch.full((count,), TCL, device=self._increment.device)
            return self._columns.advance(tcl, places, remember=False).clone()
        own = self._columns.tensors
        if kind == "last":
            return _at(own["last"], places, copy=True)
        total = _at(own["total"], places)
        count = _at(own["lengths"], places).clamp(min=1).unsqueeze(1).to(total.dtype)
        return (total / (count if kind == "mean" else count.sqrt())).to(self._increment.dtype)

    def select(self, users: Numbers) -> "UserState":
        """A copy of some users, in that order."""
        state = copy(self)  # the encoder and what was made of it are shared
        places = places_of(users, count=len(self), once=False)
        state._columns = self._columns.select(places.to(self._increment.device))
        return state

    def put(self, users: Numbers, other: "UserState") -> None:
        """Puts the users of `other`, a state of the same encoder, in the place of `users` `(len(other),)`."""
        self._check()
        other._check()
        own, theirs = self._columns.tensors, other._columns.tensors
        if other._base is not self._base or own.keys() != theirs.keys():
            raise SettingsError("put takes users of the same encoder, with domain_ids in both states or in neither.")
        places = places_of(users, count=len(self), once=True)
        if len(places) != len(other):
            raise DataError(f"put was given {len(places)} places for {len(other)} users.")
        self._columns.put(places.to(self._increment.device), other._columns)

    def save(self, path: Path | str) -> None:
        """Writes the state to a safetensors file, whole or not at all; raises ResourceError where the disk is full."""
        self._check()
        write_state(self._columns.slots.given(), Path(path), encoder=self.encoder, base=self._base)

    @classmethod
    def load(cls, path: Path | str, encoder: nn.Module) -> "UserState":
        """The state saved in a file, for the encoder that it was made with, the same adapter active.

        Raises SettingsError where there is no file, RefusedError where it is damaged or of another encoder, adapter or
        vocabulary.
        """
        path = Path(path)
        found = read_state(path, encoder=encoder, base=base_of(encoder))
        users = found["lengths"].numel() if "lengths" in found else 0
        domain_ids = torch.zeros(users, dtype=torch.long) if "domain_ids" in found else None
        storage = next((kind for kind in STORAGES if "inputs" in found and found["inputs"].dtype == kind), None)
        state = cls(encoder, users=users, domain_ids=domain_ids, storage=storage)
        slots = state._columns.slots
        fill(slots.shapes(), found, path=path)
        slots.take(found)
        state._columns.look()
        return state

    def _own_readout(self) -> str:
        """How the encoder reads its states, if it does so from the top layer alone and nothing is hung on that."""
        reader = self._base.reader
        if not is_bare(reader, Readout) or not reader.reads_top_alone:
            raise SettingsError(
                f"The encoder's own readout reads other layers than the top one, or is wrapped or hooked. {_OTHERWISE}"
            )
        return reader.kind

    def _check(self) -> None:
        """Raises SettingsError where the encoder is not what it was, or would drop out."""
        if self._base.training or any(dropout.training and dropout.p > 0.0 for dropout in self._dropouts):
            raise SettingsError(
                "The encoder, or a dropout in it, is in training mode, in which it drops out at random: call eval() "
                "first."
            )
        if not self._watch.unchanged():
            raise SettingsError(
                "The encoder has changed since this state was made (weights, modules, hooks or active adapters), and "
                "what it remembers is of the old one. Make a new state from the histories: UserState.of."
            )

    def _places(self, users: Numbers | None, *, once: bool = False) -> Tensor | None:
        """Which rows of the columns are meant, None for all."""
        if users is None:
            return None
        return places_of(users, count=len(self), once=once).to(self._increment.device)


def _at(column: Tensor, places: Tensor | None, *, copy: bool = False) -> Tensor:
    """The rows of a column at `places`, None for all of them, as they stand unless `copy`."""
    if places is not None:
        return column.index_select(0, places)
    return column.clone() if copy else column
