"""The user vectors of impressions: each reads what its user did before it, computed once or in each step."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import cut, pad
from peterrec.data.examples import Prefixes
from peterrec.data.impressions.impressions import Impressions
from peterrec.data.upload import upload
from peterrec.encoders.prefix_readout import PREFIX_READOUTS, prefix_pooled
from peterrec.encoders.readout import valid_positions
from peterrec.encoders.user_reading import states_of
from peterrec.inference import POSITIONS
from peterrec.model import TaskModel

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reads:
    """What is encoded for some rows `(B,)`: histories `[start, stop)` of the users `users`, each of a domain `(U,)`;
    row i reads the history `rows[i]`, up to its position `places[i]` (-1: nothing)."""

    users: Ints
    start: Ints
    stop: Ints
    domains: Ints
    rows: Ints
    places: Ints


def shares_windows(model: TaskModel) -> bool:
    """Whether one pass over a row gives the user vectors of all its prefixes; not where a window size is set."""
    base = model.base_encoder
    unbounded = base.window is None and model.window is None
    return unbounded and base.config.causal and model.reader.kind in PREFIX_READOUTS


class ImpressionVectors:
    """User vectors of the rows of `impressions`, by the encoder of `model`.

    Where the encoder is causal and the readout takes the last state, or sums (`shares_windows`), the rows of a user
    share passes over windows of `max_length` events, which begin every half of that: a row reads the first window that
    holds all that lay before it, up to its own place there, so at least half as many events and none before or after.
    Otherwise each reads its own last `max_length` events. Either way a vector depends on the history before the row
    alone, never on the other rows, so that training and prediction read alike. With `domains` the encoder is told the
    domain of each row.

    A vector that no step changes is computed once, for all rows in `kept`, if all of them fit into `cache_mb` MiB.
    `earlier` holds the vectors that were computed with the same frozen encoder, by `key`.
    """

    def __init__(
        self,
        model: TaskModel,
        impressions: Impressions,
        *,
        kept: Ints,
        max_length: int,
        domains: bool,
        cache_mb: int,
        earlier: dict[str, Tensor] | None = None,
        key: str | None = None,
    ):
        assert impressions.history is not None
        assert impressions.before is not None
        self._model = model
        self._history = impressions.history
        self._user = impressions.user
        self._before = impressions.before
        self._domain = impressions.domain if domains else None
        self._max_length = max_length
        self.windows = shares_windows(model)
        self.stand = model.encoder_stands and model.reader.stands
        channels = len(model.reader.layers) * model.config.hidden_size
        lengths = impressions.history.lengths
        self._events = int(lengths.max(initial=0)) + 1  # more than lie before any row
        self._domains = 1 if self._domain is None else int(self._domain.max(initial=-1)) + 2
        assert len(lengths) * self._events * self._domains < 2**63, "keys are packed into 64 bits"
        self._unique, first, self._place = np.unique(self._keys(kept), return_index=True, return_inverse=True)
        self._first = kept[first]  # a row of each key
        self.bytes = len(self._unique) * channels * model.base_encoder.dtype.itemsize
        self.keeps = self.stand and self.bytes <= cache_mb * 2**20
        self._kept_rows = kept
        self._vectors: Tensor | None = None
        self._earlier, self._key = ({} if earlier is None else earlier), key

    def plan(self) -> str:
        """In words: what is computed once, and what in each step."""
        size = f"{self.bytes / 2**20:,.1f} MiB"
        how = (
            f"the impressions of a user share passes over windows of {self._max_length:,} events"
            if self.windows
            else "each reads a history of its own"
        )
        if self.keeps:
            return (
                f"Nothing in the encoder trains: {len(self._unique):,} user vectors are computed once ({size}); {how}."
            )
        if self.stand:
            return f"User vectors take {size}, more than cache_mb allows: each step computes them; {how}."
        return f"The encoder trains: each step computes its user vectors; {how}."

    def orders(self, rows: Ints, *, batch: int, rng: np.random.Generator) -> list[Ints]:
        """`rows` in random batches of about `batch`: those of a window together, where they share its pass."""
        if self.keeps or not self.windows:
            order = rng.permutation(len(rows))
            return [np.sort(rows[order[at : at + batch]]) for at in range(0, len(rows), batch)]
        _, window = np.unique(self._window_keys(rows), return_inverse=True)
        ranks = rng.permutation(int(window.max(initial=-1)) + 1)[window]
        order = np.argsort(ranks, kind="stable")
        ends = np.flatnonzero(np.diff(ranks[order], append=-1))  # a window is never cut
        cuts = np.unique(np.searchsorted(ends, np.arange(batch, len(rows), batch)))
        return [part for part in np.split(rows[order], ends[cuts[cuts < len(ends) - 1]] + 1) if len(part)]

    def by_user(self, rows: Ints) -> Ints:
        """Places of `rows` `(B,)` in the order of users and their events, in which windows stand together."""
        return np.argsort(self._keys(rows), kind="stable")

    def split(self, rows: Ints, *, positions: int) -> list[Ints]:
        """`rows` `(B,)` in runs whose histories take at most `positions` positions, those of a window together."""
        if not self.windows:
            return [rows[few] for few in cut(self.lengths(rows), positions=positions)]
        reads = self.reads(rows)
        return [
            rows[(reads.rows >= few.start) & (reads.rows < few.stop)]
            for few in cut(reads.stop - reads.start, positions=positions)
        ]

    def of(self, rows: Ints, device: torch.device, *, positions: int | None = None) -> tuple[Tensor, Tensor]:
        """User vectors `(B, D)` of `rows` `(B,)`, and for whom there was anything to read `(B,)`."""
        known = upload(torch.from_numpy(self._before[rows] > 0), device)
        if self.keeps:
            pooled = self._kept(device)
            places = upload(torch.from_numpy(self._place[np.searchsorted(self._kept_rows, rows)]), device)
            return self._model.vectors_of_pooled(pooled.index_select(0, places)), known
        return self._model.vectors_of_pooled(self._pooled(rows, device, positions=positions)), known

    def lengths(self, rows: Ints) -> Ints:
        """Events that each of `rows` `(B,)` reads."""
        return np.minimum(self._before[rows], self._max_length)

    @torch.no_grad()
    def _kept(self, device: torch.device) -> Tensor:
        if self._vectors is None and self._key is not None and self._key in self._earlier:
            self._vectors = self._earlier[self._key].to(device)
        if self._vectors is None:
            model = self._model
            was_training = model.training
            model.eval()
            first = self._first
            # in the order of the keys windows stay together
            order = np.arange(len(first)) if self.windows else np.argsort(self._before[first], kind="stable")
            found: Tensor | None = None
            for at in range(0, len(order), 2**14):
                some = order[at : at + 2**14]
                part = self._pooled(first[some], device, positions=POSITIONS.get(device.type, 2**18))
                if found is None:
                    found = part.new_empty(len(first), *part.shape[1:])
                found[torch.from_numpy(some).to(device)] = part
            model.train(was_training)
            assert found is not None
            self._vectors = found
            if self._key is not None:
                self._earlier[self._key] = found.cpu()
        return self._vectors

    def _pooled(self, rows: Ints, device: torch.device, *, positions: int | None) -> Tensor:
        """What the readout takes of the histories of `rows`, `(B, K, D)`, at most `positions` positions at a time."""
        return self._of_windows(rows, device, positions) if self.windows else self._of_own(rows, device, positions)

    def _of_windows(self, rows: Ints, device: torch.device, positions: int | None) -> Tensor:
        model, reads = self._model, self.reads(rows)
        lengths = reads.stop - reads.start
        order = np.argsort(lengths, kind="stable")
        parts: list[Tensor] = []
        flat_at = np.zeros(len(lengths), dtype=np.int64)  # where the states of each history begin
        size = 0
        for few in cut(lengths[order], positions=positions):
            some = order[few]
            flat, counts = self._history.gather(reads.users[some], reads.start[some], reads.stop[some])
            ids = upload(torch.from_numpy(pad(flat, counts)), device)
            domains = None if self._domain is None else upload(torch.from_numpy(reads.domains[some]), device)
            valid = valid_positions(ids)
            states = states_of(model.encoder, model.base_encoder, model.reader, ids, valid, domain_ids=domains)
            pooled = prefix_pooled(model.reader, states)
            flat_at[some] = size + np.arange(len(some)) * pooled.shape[1]
            size += pooled.shape[0] * pooled.shape[1]
            parts.append(pooled.flatten(0, 1))
        none = parts[0].new_zeros(1, *parts[0].shape[1:])
        at = np.where(reads.places < 0, size, flat_at[reads.rows] + reads.places)
        return torch.cat([*parts, none]).index_select(0, upload(torch.from_numpy(at), device))

    def _of_own(self, rows: Ints, device: torch.device, positions: int | None) -> Tensor:
        keys, owner = np.unique(self._keys(rows), return_inverse=True)
        users, before, of_domain = self._unpacked(keys)
        model = self._model
        reading = model.reading(self._max_length)
        order = np.argsort(before, kind="stable")
        found: list[Tensor] = []
        for few in cut(reading.events(before[order]), positions=positions):
            some = order[few]
            prefixes = Prefixes(self._history, rows=users[some], stops=before[some])
            laid = reading.rows(prefixes, np.arange(len(some)))
            places = None if laid.places is None else upload(torch.from_numpy(laid.places), device)
            domains = None if self._domain is None else upload(torch.from_numpy(of_domain[some]), device)
            ids = upload(torch.from_numpy(laid.ids), device)
            found.append(model.pooled_users(ids, domain_ids=domains, places=places, positions=positions))
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return torch.cat(found).index_select(0, upload(torch.from_numpy(back[owner]), device))

    def reads(self, rows: Ints) -> Reads:
        """The windows that `rows` `(B,)` share."""
        keys, window = np.unique(self._window_keys(rows), return_inverse=True)
        users, number, domains = self._unpacked(keys)
        start = number * self._hop
        before = self._before[rows]
        stop = np.zeros(len(keys), dtype=np.int64)
        np.maximum.at(stop, window, before)
        return Reads(
            users=users,
            start=np.minimum(start, stop),
            stop=stop,
            domains=domains,
            rows=window,
            places=before - start[window] - 1,
        )

    @property
    def _hop(self) -> int:
        return max(self._max_length // 2, 1)

    def _keys(self, rows: Ints) -> Ints:
        """(user, events before, domain) of `rows`, packed `(B,)`, in that order: what a vector depends on."""
        return self._packed(rows, self._before[rows])

    def _window_keys(self, rows: Ints) -> Ints:
        """(user, window, domain) of `rows`, packed `(B,)`."""
        return self._packed(rows, np.maximum(-(-(self._before[rows] - self._max_length) // self._hop), 0))

    def _packed(self, rows: Ints, number: Ints) -> Ints:
        users = np.maximum(self._user[rows], 0)  # without a user there is nothing before
        packed = users * self._events + number  # one number sorts many times as fast as a row of three
        return packed if self._domain is None else packed * self._domains + self._domain[rows] + 1

    def _unpacked(self, keys: Ints) -> tuple[Ints, Ints, Ints]:
        """The users, the second numbers and the domains of packed keys, `(B,)` each."""
        keys, domain = np.divmod(keys, self._domains)
        return *np.divmod(keys, self._events), domain - (self._domain is not None)
