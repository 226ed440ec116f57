"""The bars that the project set itself, each beside what was measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import epochs, softmax_heads, steps, user_updates
from benchmarks.tables import Table

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # of each table, by title
Figures = tuple[float, float]  # by medians, by minima

COLUMNS = {
    "bar": ("bar", ""),
    "wanted": ("wanted", ""),
    "measured": ("by medians", ",.2f"),
    "best": ("by minima", ",.2f"),
    "verdict": ("verdict", ""),
}


@dataclass(frozen=True)
class Bar:
    """A figure that `figures` finds among the tables (None: not measured) and what it must reach."""

    text: str
    wanted: float
    figures: Callable[[Rows], Figures | None]
    at_most: bool = False

    def row(self, tables: Rows) -> dict[str, Any]:
        """Its row of the table; medians decide."""
        found = self.figures(tables)
        row: dict[str, Any] = {"bar": self.text, "wanted": f"{'≤' if self.at_most else '≥'} {self.wanted:g}"}
        if found is None:
            return row | {"verdict": "not measured"}
        met = found[0] <= self.wanted if self.at_most else found[0] >= self.wanted
        return row | {"measured": found[0], "best": found[1], "verdict": "met" if met else "missed"}


def _row(tables: Rows, title: str, **wanted: object) -> Mapping[str, Any] | None:
    """The first row of a table whose title begins so that holds what is wanted."""
    rows = [row for name, rows in tables.items() if name.startswith(title) for row in rows]
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def _step(tables: Rows, peer: str, channels: int) -> Mapping[str, Any] | None:
    """The step of the bars: V = 3.7k, L = 50, 16 convolutions, no dropout."""
    shape = {"vocabulary": steps.VOCABULARIES[0], "length": steps.LENGTHS[0], "channels": channels}
    return _row(tables, steps.TITLE, peer=peer, dropout=0.0, **shape)


def _share(tables: Rows, channels: int) -> Figures | None:
    row = _step(tables, "exact", channels)
    return None if row is None else (row["share"], row["share"] * row["ms"] / row["ms_min"])


def _over(tables: Rows, who: str, peer: str) -> Figures | None:
    row = _step(tables, who, steps.CHANNELS[0])
    return None if row is None or row[f"over_{peer}"] is None else (row[f"over_{peer}"], row[f"over_{peer}_best"])


def _growth(tables: Rows) -> Figures | None:
    small, large = (_row(tables, steps.GROWTH, vocabulary=steps.VOCABULARIES[n]) for n in (1, -1))
    if small is None or large is None:
        return None
    return large["ms"] / small["ms"], large["ms_min"] / small["ms_min"]


def _head(tables: Rows, *keys: str) -> Figures | None:
    row = _row(tables, softmax_heads.EXACT_TITLE, peer="exact", vocabulary=softmax_heads.EXACT[-1])
    if row is None or any(row.get(key) is None for key in keys):
        return None
    return row[keys[0]], row[keys[-1]]


def _epoch(tables: Rows) -> Figures | None:
    row = _row(tables, epochs.TITLE, who=epochs.OURS, length=epochs.LENGTH)
    return None if row is None else (row["times"], row["times_best"])


def _update(tables: Rows, users: int) -> Figures | None:
    row = _row(tables, user_updates.TITLE, users=users, who=user_updates.UPDATE, length=user_updates.SHAPE.length)
    return None if row is None else (row["times"], row["times_best"])


BARS = (
    Bar("exact step, D = 64: share of the GEMM rate", 0.60, lambda t: _share(t, 64)),
    Bar("exact step, D = 128: share of the GEMM rate", 0.75, lambda t: _share(t, 128)),
    Bar("exact step over naive torch, targets/s", 2.0, lambda t: _over(t, "exact", "naive")),
    Bar("naive torch over RecBole, targets/s (else it is a straw man)", 14.0, lambda t: _over(t, "naive", "recbole")),
    Bar("exact step over RecBole, targets/s (RecBole: one a row)", 40.0, lambda t: _over(t, "exact", "recbole")),
    Bar("sampled step, time at V = 1M over V = 50k", 1.2, _growth, at_most=True),
    Bar("exact softmax over naive, V = 100k", 2.0, lambda t: _head(t, "times", "times_best")),
    Bar("its memory over naive's", 0.125, lambda t: _head(t, "memory_share"), at_most=True),
    Bar("epoch over padding to the maximum, L = 200", 3.5, _epoch),
    Bar("one-item update over encoding again, B = 1", 4.0, lambda t: _update(t, 1)),
    Bar("one-item update over encoding again, B = 256", 30.0, lambda t: _update(t, 256)),
)


def table(tables: Rows, *, threads: int, load: float | None) -> Table:
    """All bars, met or missed."""
    notes = [
        "The steps of the bars: V = 3.7k, L = 50, 16 convolutions, no dropout; medians decide. They are meant for an "
        f"idle machine and 2 threads; this run had {threads}"
        + (f", and the load was {load:.2f} before it began." if load is not None else "."),
        "The quality of the sampled softmax beside the exact one is a bar too; tests and the documentation hold it.",
    ]
    return Table("Bars", COLUMNS, [bar.row(tables) for bar in BARS], notes)
