"""A generated world and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.synthetic import impression_oracle, oracle
from peterrec.data.synthetic.histories import Histories
from peterrec.data.synthetic.impression_oracle import ImpressionProbabilities, Shown
from peterrec.data.synthetic.impression_parameters import DEVICES, DOMAINS, POSITIONS, ImpressionParameters
from peterrec.data.synthetic.impressions import Impressions, draw_impressions
from peterrec.data.synthetic.parameters import Parameters
from peterrec.data.synthetic.sampling import (
    draw_attribute,
    draw_histories,
    draw_lengths,
    draw_target,
    draw_times,
)
from peterrec.data.synthetic.settings import WorldSettings
from peterrec.data.synthetic.world_files import WorldFiles, write_files
from peterrec.errors import SettingsError, did_you_mean

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class World:
    """A generated world (its equations stand in the package's docstring) with exact oracles.

    `users` (N), `items` and `target_items` are text ids; `histories` holds numbers into `items`, `times`
    (events,) the seconds since 1970 of those events; `labels` has the columns user, gender, age, occupation;
    `target` is the target domain's log: user, item, time. `personas` (N,) made the histories,
    `label_personas` (N,) the labels and the target domain; they are the same unless `settings.related` is
    False.
    """

    settings: WorldSettings
    parameters: Parameters
    users: list[str]
    items: list[str]
    target_items: list[str]
    histories: Histories
    times: NDArray[np.int64]
    labels: pa.Table
    target: pa.Table
    personas: NDArray[np.int64]
    label_personas: NDArray[np.int64]

    @classmethod
    def generate(cls, settings: WorldSettings | None = None) -> "World":
        """Draw a world; the same settings give the same world, byte for byte."""
        settings = settings or WorldSettings()
        # A stream each, so that e.g. `related` leaves the histories as they are.
        streams = [_stream(settings, number) for number in range(7)]
        parameters = Parameters.draw(settings, rng=streams[0])
        count = settings.users
        personas = (streams[1].random(count) * settings.personas).astype(np.int64)
        lengths = draw_lengths(settings, rng=streams[2])
        histories = draw_histories(
            parameters, personas=personas, lengths=lengths, repeat=settings.repeat, rng=streams[3]
        )
        times = draw_times(lengths, ties=settings.ties, rng=streams[4])
        label_personas = personas
        if not settings.related:
            label_personas = (streams[1].random(count) * settings.personas).astype(np.int64)

        users, items = _names("u", count), _names("i", settings.items)
        target_items = _names("t", settings.target_items)
        columns: dict[str, list[Any]] = {"user": users}
        for name, table in parameters.attributes.items():
            drawn = draw_attribute(table, personas=label_personas, rng=streams[5])
            columns[name] = [parameters.classes[name][number] for number in drawn]
        bought = draw_target(parameters, personas=label_personas, rng=streams[6])
        # The target domain comes after the history.
        last = times[np.cumsum(lengths) - 1]
        bought_times = draw_times(bought.lengths, ties=settings.ties, rng=streams[6])
        first = bought_times[bought.offsets[:-1]]
        bought_times += np.repeat(last + 3_600 - first, bought.lengths)
        for array in (histories.items, histories.offsets, times, personas, label_personas):
            array.setflags(write=False)  # the oracle's truth; libraries that sort in place shall fail
        return cls(
            settings=settings,
            parameters=parameters,
            users=users,
            items=items,
            target_items=target_items,
            histories=histories,
            times=times,
            labels=pa.table(columns),
            target=_log(bought, bought_times, users=users, items=target_items),
            personas=personas,
            label_personas=label_personas,
        )

    @cached_property
    def impression_parameters(self) -> ImpressionParameters:
        """What decides on clicks and what follows them."""
        return ImpressionParameters.draw(self.settings, parameters=self.parameters, rng=_stream(self.settings, 7))

    @cached_property
    def impressions(self) -> Impressions:
        """What users were shown of the target domain after their histories, and what came of it; drawn when asked."""
        return draw_impressions(
            self.impression_parameters,
            target=self.parameters.target,
            personas=self.label_personas,
            last=self.times[self.histories.offsets[1:] - 1],
            rng=_stream(self.settings, 8),
        )

    def impression_table(self) -> pa.Table:
        """The impressions, sorted by time: user, item, time, domain, position, device, click, cart, conversion, like,
        dwell and completion (null where there was no click)."""
        return self.impressions.table(users=self.users, items=self.target_items)

    def log_table(self) -> pa.Table:
        """The log: user, item (text), time (seconds), sorted by time; ties keep the order of the history."""
        return _log(self.histories, self.times, users=self.users, items=self.items)

    def write(self, folder: Path, *, bad_rows: int = 0) -> WorldFiles:
        """Write the log in two parts (the later one gzipped), users, target domain, impressions; see `write_files`."""
        return write_files(
            folder,
            log=self.log_table(),
            labels=self.labels,
            target=self.target,
            impressions=self.impression_table(),
            bad_rows=bad_rows,
        )

    def classes(self, column: str) -> tuple[Any, ...]:
        """The classes of an attribute, in the order of `oracle_attribute`. Raises SettingsError."""
        if column not in self.parameters.classes:
            raise SettingsError(
                f"The world has no attribute {column!r}. {did_you_mean(column, self.parameters.classes)}"
            )
        return self.parameters.classes[column]

    def oracle_attribute(self, column: str, histories: Histories | Sequence[Sequence[str]]) -> Floats:
        """Exact p(class | history), (N, C), classes in the order of `classes(column)`.

        Histories, oldest event first, are item ids or world item numbers; unknown items (and −1) are left
        out, an empty history has the prior. With `related=False` every row is the prior. Raises
        SettingsError.
        """
        self.classes(column)
        return self._label_posterior(histories) @ self.parameters.attributes[column]

    def oracle_next_item(self, histories: Histories | Sequence[Sequence[str]]) -> Floats:
        """Exact p(next item | history), (N, items), in the order of `items`, with the history kept."""
        return oracle.next_item(self.parameters, self._numbers(histories), repeat=self.settings.repeat)

    def oracle_target_item(self, histories: Histories | Sequence[Sequence[str]]) -> Floats:
        """Exact p(item of the target domain | history), (N, target items), in the order of `target_items`."""
        target = self.parameters.target
        topic = self._label_posterior(histories) @ self.parameters.target_taste
        return topic[:, target.topic] * target.popularity

    def oracle_impressions(
        self,
        histories: Histories | Sequence[Sequence[str]],
        *,
        items: Sequence[str] | NDArray[np.integer],
        domains: Sequence[str] | NDArray[np.integer],
        positions: NDArray[np.integer] | Sequence[int],
        devices: Sequence[str] | NDArray[np.integer] | None = None,
        rows: NDArray[np.integer] | None = None,
    ) -> ImpressionProbabilities:
        """Exact probabilities of what comes of N impressions, given history, item, domain, position and device.

        Impression n is shown to the user of history `rows[n]`; without `rows` there is one for each history. Items
        (of the target domain), domains and devices are ids, or numbers into `target_items`, `DOMAINS`, `DEVICES`;
        without devices they are averaged out. Histories are those of the other oracles; with `related=False` they say
        nothing. What the same user did with other impressions is not asked: it says more about the persona.
        Raises SettingsError.
        """
        item = _numbers_of(items, self.target_items, "item of the target domain")
        position = np.asarray(positions, np.int64)
        if wrong := position[(position < 1) | (position > POSITIONS)].tolist():
            raise SettingsError(f"position {wrong[0]}: the world's lists have positions from 1 to {POSITIONS}.")
        device = np.full(len(item), -1) if devices is None else _numbers_of(devices, DEVICES, "device")
        domain = _numbers_of(domains, DOMAINS, "domain")
        row = np.arange(len(histories)) if rows is None else np.asarray(rows, np.int64)
        if len({len(item), len(domain), len(position), len(device), len(row)}) > 1:
            raise SettingsError(
                f"{len(row)} rows of histories, {len(item)} items, {len(domain)} domains, {len(position)} positions "
                f"and {len(device)} devices: give one of each for every impression."
            )
        shown = Shown(item, self.parameters.target.topic[item], domain, position, device)
        posterior = self._label_posterior(histories)
        return impression_oracle.probabilities(self.impression_parameters, shown, posterior=posterior, rows=row)

    def _label_posterior(self, histories: Histories | Sequence[Sequence[str]]) -> Floats:
        """p(label persona | history), (N, M)."""
        if self.settings.related:
            return oracle.persona_posterior(self.parameters, self._numbers(histories))
        return np.tile(self.parameters.prior, (len(histories), 1))

    def _numbers(self, histories: Histories | Sequence[Sequence[str]]) -> Histories:
        if isinstance(histories, Histories):
            return histories
        return Histories.of_ids(histories, numbers={item: number for number, item in enumerate(self.items)})


def _stream(settings: WorldSettings, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([settings.seed, number]))


def _numbers_of(values: Sequence[str] | NDArray[np.integer], known: Sequence[str], what: str) -> NDArray[np.int64]:
    """Numbers (N,) into `known` of ids, or of numbers, which are checked."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        if wrong := values[(values < 0) | (values >= len(known))].tolist():
            raise SettingsError(f"The world has no {what} {wrong[0]}: numbers go from 0 to {len(known) - 1}.")
        return values.astype(np.int64)
    number = {name: place for place, name in enumerate(known)}
    if unknown := next((value for value in values if value not in number), None):
        raise SettingsError(f"The world has no {what} {unknown!r}. {did_you_mean(str(unknown), known)}")
    return np.array([number[str(value)] for value in values], np.int64)


def _names(letter: str, count: int) -> list[str]:
    width = max(4 if letter != "u" else 5, len(str(count - 1)))
    return [f"{letter}{number:0{width}d}" for number in range(count)]


def _log(histories: Histories, times: NDArray[np.int64], *, users: list[str], items: list[str]) -> pa.Table:
    """Rows of user, item, time, sorted by time."""
    order = np.argsort(times, kind="stable")
    return pa.table(
        {
            "user": pa.array(users, pa.string()).take(pa.array(histories.rows[order])),
            "item": pa.array(items, pa.string()).take(pa.array(histories.items[order])),
            "time": times[order],
        }
    )
