"""A generated world and what is known of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.synthetic import oracle
from peterrec.data.synthetic.histories import Histories
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
        streams = [np.random.Generator(np.random.PCG64([settings.seed, stream])) for stream in range(7)]
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

    def log_table(self) -> pa.Table:
        """The log: user, item (text), time (seconds), sorted by time; ties keep the order of the history."""
        return _log(self.histories, self.times, users=self.users, items=self.items)

    def write(self, folder: Path, *, bad_rows: int = 0) -> WorldFiles:
        """Write the log in two parts (the later one gzipped), users and target domain; see `write_files`."""
        return write_files(folder, log=self.log_table(), labels=self.labels, target=self.target, bad_rows=bad_rows)

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

    def _label_posterior(self, histories: Histories | Sequence[Sequence[str]]) -> Floats:
        """p(label persona | history), (N, M)."""
        if self.settings.related:
            return oracle.persona_posterior(self.parameters, self._numbers(histories))
        return np.tile(self.parameters.prior, (len(histories), 1))

    def _numbers(self, histories: Histories | Sequence[Sequence[str]]) -> Histories:
        if isinstance(histories, Histories):
            return histories
        return Histories.of_ids(histories, numbers={item: number for number, item in enumerate(self.items)})


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
