"""The summary of a prepared log: what was read, dropped and kept, in figures for people and plots."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

QUANTILES = {"p5": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}
SHOWN_VALUES = 20
SHOWN_IN_TABLE = 8

_LEFT_OUT = ("without_history", "unseen_targets", "unseen_events")
_QUANTILES = ("min", *QUANTILES, "max", "mean")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class LengthCounts:
    """How many users have how many events: exact for any number of users, since few lengths are distinct."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}

    def add(self, lengths: npt.NDArray[np.integer]) -> None:
        """Count the users with these numbers of events `lengths` (N,)."""
        for length, users in zip(*np.unique(lengths, return_counts=True), strict=True):
            self._users[int(length)] = self._users.get(int(length), 0) + int(users)

    def _sorted(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        lengths = np.array(sorted(self._users), dtype=np.int64)
        return lengths, np.array([self._users[int(length)] for length in lengths], dtype=np.int64)

    @property
    def events(self) -> int:
        """The events of all users."""
        return sum(length * users for length, users in self._users.items())

    @property
    def rows(self) -> int:
        """The users."""
        return sum(self._users.values())

    def quantiles(self) -> dict[str, float] | None:
        """min, p5, …, p99, max, mean, None if empty; a share of the users is no longer than its quantile."""
        if not self._users:
            return None
        lengths, users = self._sorted()
        reached = np.cumsum(users)
        at = {name: int(lengths[np.searchsorted(reached, share * self.rows)]) for name, share in QUANTILES.items()}
        return {
            "min": int(lengths[0]),
            **at,
            "max": int(lengths[-1]),
            "mean": round(self.events / self.rows, 3),
        }

    def histogram(self) -> dict[str, list[int]]:
        """Users by length for plotting: `counts[i]` users have `edges[i] <= length < edges[i + 1]`.

        The bins widen: single lengths first, then two in each doubling (1, 2, 3, 4, 6, 8, 12, 16, …).
        """
        if not self._users:
            return {"edges": [], "counts": []}
        lengths, users = self._sorted()
        edges = [0] if lengths[0] == 0 else []
        steps = (step for power in range(63) for step in {1 << power, 3 << power >> 1})
        for step in sorted(steps):
            edges.append(step)
            if step > lengths[-1]:
                break
        first = max(0, int(np.searchsorted(edges, lengths[0], side="right")) - 1)
        edges = edges[first:]
        counts = np.zeros(len(edges) - 1, dtype=np.int64)
        np.add.at(counts, np.searchsorted(edges, lengths, side="right") - 1, users)
        return {"edges": edges, "counts": counts.tolist()}


def label_shares(labels: pa.Table) -> dict[str, dict[str, Any]]:
    """Of each attribute of the users table (`user` and attributes, one row a user): values and their shares.

    `shares` lists the most frequent values (up to 20; ties by value), each with its share of the labelled
    users.
    """
    described = {}
    for name in (name for name in labels.column_names if name != "user"):
        column = labels[name].drop_null()
        counts = [(entry["values"], entry["counts"]) for entry in column.value_counts().to_pylist()]
        counts.sort(key=lambda pair: (-pair[1], str(pair[0])))
        described[name] = {
            "labelled": len(column),
            "missing": labels[name].null_count,
            "distinct": len(counts),
            "shares": [
                {"value": _json_value(value), "count": count, "share": round(count / len(column), 6)}
                for value, count in counts[:SHOWN_VALUES]
            ],
        }
    return described


def readable_time(microseconds: int) -> str | None:
    """A time as ISO 8601 in UTC; None where no calendar reaches."""
    try:
        return (_EPOCH + timedelta(microseconds=microseconds)).isoformat()
    except OverflowError:
        return None


def render_summary(summary: Mapping[str, Any]) -> "Group":
    """The summary as tables for the console (anything that rich prints)."""
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text

    counts = Table(title="prepared log", title_justify="left", show_header=False)
    counts.add_row("rows read", f"{summary['rows_read']:,}")
    for reason, rows in summary["rows_dropped"].items():
        counts.add_row(f"  dropped: {reason}", f"{rows:,}")
        if reason == "bad_rows":  # a row may break several rules
            for rule, broken in summary["bad_rows"].items():
                counts.add_row(Text(f"    {rule}"), f"{broken:,}")
    for name in ("events", "users", "items"):
        counts.add_row(name, f"{summary[name]:,}")
    if summary["time"] is not None:
        time = summary["time"]
        first, last = (time.get(f"{end}_date") or f"{time[end]:,}" for end in ("first", "last"))
        counts.add_row(f"time ({time['unit']})", f"{first} to {last}")
    counts.add_row("vocabulary", summary["vocabulary"]["fingerprint"][:16] + "…")

    parts = Table(title="parts", title_justify="left")
    lengths = Table(title="events a user", title_justify="left")
    for table, columns in (
        (parts, ("part", "users", "events", *_LEFT_OUT)),
        (lengths, ("part", *_QUANTILES)),
    ):
        for column in columns:
            table.add_column(column.replace("_", " "), justify="left" if column == "part" else "right")
    for name, part in summary["parts"].items():
        parts.add_row(name, *(f"{part[key]:,}" if key in part else "" for key in ("rows", "events", *_LEFT_OUT)))
        if part["lengths"] is not None:
            lengths.add_row(name, *(f"{part['lengths'][key]:,}" for key in _QUANTILES))

    split = summary["split"]
    settings = ", ".join(f"{key} {value}" for key, value in split["parameters"].items())
    blocks: list[RenderableType] = [counts, parts, lengths]
    blocks.append(Text(f"split: {split['name']}" + (f" ({settings})" if settings else "")))
    blocks.append(Text(split["caveat"], style="dim"))
    if summary["labels"]:
        blocks.append(_label_table(summary["labels"]))
    blocks.extend(Text(f"note: {note}", style="yellow") for note in summary["notes"])
    return Group(*blocks)


def _label_table(labels: Mapping[str, Any]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table("attribute", "users", "missing", "values", title="labels", title_justify="left")
    for name, column in labels.items():
        shown = [f"{entry['value']} {entry['share']:.1%}" for entry in column["shares"][:SHOWN_IN_TABLE]]
        if column["distinct"] > len(shown):
            shown.append(f"{column['distinct'] - len(shown):,} more")
        # Text, not str: values may hold what rich takes for markup
        table.add_row(Text(name), f"{column['labelled']:,}", f"{column['missing']:,}", Text(", ".join(shown)))
    return table


def _json_value(value: object) -> str | int | float | bool:
    if isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)
