"""User vectors for many tasks at once, in as few passes over the encoder as can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import plan
from peterrec.data.reading import Reading
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import Pooled, Readout, ending_together, valid_positions
from peterrec.encoders.user_reading import joined, reach_of
from peterrec.inference import POSITIONS
from peterrec.serving.engine import Engine, Route
from peterrec.serving.histories import Histories

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Want:
    """Somebody wants the vectors of the `rows` `(N,)` of some `histories`, which rise, by a `route`."""

    route: Route
    histories: Histories
    rows: Ints


class Counted(NamedTuple):
    """The vectors `(N, D)` of each want, on the CPU; how many passes it took, and how many rows these had."""

    vectors: list[Tensor]
    passes: int
    rows: int


class _Kind(NamedTuple):
    """What wants must have in common to share a pass."""

    engine: int
    reading: Reading
    reach: int | None
    embedded: bool  # nothing but embeddings is read


@torch.no_grad()
def user_vectors(wants: Sequence[Want], *, device: torch.device) -> Counted:
    """The vectors of all wants.

    Those of one engine whose histories are laid out alike share passes. In one, a history is encoded once for all
    readouts that go the same way through the engine, and once for each adapter otherwise, as rows of one batch. As
    rows are brought together as `peterrec.inference.encode` does, wants of one task alone get its very bits.
    """
    groups: dict[_Kind, list[int]] = {}
    for number, want in enumerate(wants):
        route = want.route
        engine, base, reader = route.engine, route.engine.base, route.reader
        embedded = max(reader.layers) == 0 and getattr(type(base), "embed", None) is UserEncoder.embed
        kind = _Kind(
            id(engine), route.reading, reach_of(base, reader), embedded and len(engine.names) < 2
        )  # who names adapters goes through the whole encoder
        groups.setdefault(kind, []).append(number)
    found: list[Tensor] = [torch.zeros(0, 0)] * len(wants)
    passes = rows = 0
    for kind, members in groups.items():
        shared = _Shared([wants[number] for number in members], kind, device=device)
        vectors = shared.run()
        passes, rows = passes + shared.passes, rows + len(shared.users)
        for number, one in zip(members, vectors, strict=True):
            found[number] = one
    return Counted(found, passes, rows)


class _Shared:
    """Wants of one kind: which rows they come to, and what each takes of them."""

    def __init__(self, wants: list[Want], kind: _Kind, *, device: torch.device) -> None:
        self.wants, self.kind, self.device = wants, kind, device
        self.engine: Engine = wants[0].route.engine
        self.passes = 0
        parts = list({id(want.histories): want.histories for want in wants}.values())
        self.histories = Histories.joined(parts)
        begin = dict(zip(map(id, parts), np.cumsum([0, *map(len, parts)]).tolist(), strict=False))
        voices = list(dict.fromkeys(want.route.voice for want in wants))
        users, voice = [], []
        self.places: list[Ints] = [np.zeros(0, np.int64)] * len(wants)  # of what each wants among the rows
        size = 0
        for number, name in enumerate(voices):
            for part in parts:
                own = [at for at, one in enumerate(wants) if one.route.voice == name and one.histories is part]
                asked = np.zeros(len(part), dtype=np.bool_)
                for at in own:
                    asked[wants[at].rows] = True
                place = size + np.cumsum(asked) - 1
                for at in own:
                    self.places[at] = place[wants[at].rows]
                users.append(begin[id(part)] + np.flatnonzero(asked))
                voice.append(np.full(len(users[-1]), number))
                size += len(users[-1])
        self.voices = voices
        self.users: Ints = np.concatenate(users)
        self.voice: Ints = np.concatenate(voice)
        # readouts of each voice, each once
        self.readers: list[dict[int, Readout]] = [
            {id(want.route.reader): want.route.reader for want in wants if want.route.voice == name} for name in voices
        ]

    def run(self) -> list[Tensor]:
        """The vectors of each want `(N, D)`."""
        positions = POSITIONS.get(self.device.type, 2**18)
        kept: dict[int, Tensor] = {}
        lengths = self.kind.reading.events(self.histories.lengths[self.users])
        for batch in plan(lengths, positions=positions, shuffle=False):
            together = np.argsort(self.voice[batch], kind="stable")  # rows of an adapter next to each other
            for reader, (rows, pooled) in self._pooled(batch.astype(np.int64)[together], positions).items():
                if reader not in kept:
                    kept[reader] = pooled.new_zeros(len(self.users), *pooled.shape[1:])
                kept[reader][torch.from_numpy(rows)] = pooled
            self.passes += 1
        found = []
        for want, places in zip(self.wants, self.places, strict=True):
            reader = want.route.reader
            if len(places):
                pooled = kept[id(reader)][torch.from_numpy(places)]
                found.append(reader.mixed(pooled.to(self.device)).float().cpu())
            else:
                found.append(torch.zeros(0, 0))
        return found

    def _pooled(self, batch: Ints, positions: int) -> dict[int, tuple[Ints, Tensor]]:
        """For each readout, the rows of `batch` that it reads and what it takes of them `(n, K, D)`, on the CPU."""
        laid = self.kind.reading.rows(self.histories, self.users[batch])
        ids = torch.from_numpy(laid.ids).to(self.device, non_blocking=True)
        voice = self.voice[batch]
        bounds = np.searchsorted(voice, np.arange(len(self.voices) + 1))  # of users
        found: dict[int, tuple[Ints, Tensor]] = {}
        if laid.places is None:
            states, valid = self._states(ids, voice)
            for number, readers in enumerate(self.readers):
                rows = slice(int(bounds[number]), int(bounds[number + 1]))
                for key, reader in readers.items() if rows.start < rows.stop else ():
                    own = [state[rows] for state in _chosen(reader, states)]
                    pooled = reader.pooled(own, valid[rows], ids[rows])
                    found[key] = batch[rows], pooled.cpu()
            return found
        # windows of the users, one user after the other, so that those of an adapter stand together too
        owners = np.full(len(laid.ids), -1)
        there = laid.places >= 0
        owners[laid.places[there]] = np.nonzero(there)[0]
        window_bounds = np.searchsorted(owners, bounds)
        few = max(positions // ids.shape[1], 1)
        parts: dict[int, list[Pooled]] = {}
        for first in range(0, len(ids), few):
            now = slice(first, min(first + few, len(ids)))
            states, valid = self._states(ids[now], voice[owners[now]])
            for number, readers in enumerate(self.readers):
                start = max(int(window_bounds[number]), now.start) - first
                rows = slice(start, min(int(window_bounds[number + 1]), now.stop) - first)
                for key, reader in readers.items() if rows.start < rows.stop else ():
                    own = [state[rows] for state in _chosen(reader, states)]
                    parts.setdefault(key, []).append(reader.pool(own, valid[rows], ids[now][rows]))
        for number, readers in enumerate(self.readers):
            rows = slice(int(bounds[number]), int(bounds[number + 1]))
            for key, reader in readers.items() if rows.start < rows.stop else ():
                places = laid.places[rows]
                places = np.where(places < 0, -1, places - window_bounds[number])
                joined_rows = reader.join(joined(parts[key]), torch.from_numpy(places).to(self.device))
                found[key] = batch[rows], joined_rows.cpu()
        return found

    def _states(self, ids: Tensor, voice: Ints) -> tuple[dict[int, Tensor], Tensor]:
        """The states of item rows `(n, L)` by layer, -1 being the top alone, and where they are valid `(n, L)`."""
        encoder, base = self.engine.encoder, self.engine.base
        valid = base.encoded(valid_positions(ids))
        if self.kind.embedded:
            return {0: base.embed(ids, valid)[0]}, valid
        more: dict[str, Any] = {}
        if len(self.engine.names) > 1:
            more["adapter_names"] = [self.voices[number] for number in voice]
        if self.kind.reach is not None:
            ids, valid = ending_together(ids, valid, positions=self.kind.reach)
            output = encoder(input_ids=ids, attention_mask=valid, domain_ids=None, positions=1, **more)
            return {-1: output.last_hidden_state}, valid[:, -1:]
        if all(want.route.reader.reads_top_alone for want in self.wants):
            output = encoder(input_ids=ids, attention_mask=valid, domain_ids=None, **more)
            return {-1: output.last_hidden_state}, valid
        output = encoder(input_ids=ids, attention_mask=valid, domain_ids=None, output_hidden_states=True, **more)
        layers = [*output.hidden_states[:-1], output.last_hidden_state]
        return {**dict(enumerate(layers)), -1: layers[-1]}, valid


def _chosen(reader: Readout, states: dict[int, Tensor]) -> list[Tensor]:
    """Of the states those that a readout takes."""
    return [states[layer] if layer in states else states[-1] for layer in reader.layers]
