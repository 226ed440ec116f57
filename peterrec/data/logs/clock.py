"""What the times of a log are: timestamps, or whole numbers of a unit that their size tells."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from peterrec.data.logs.columns import LogColumns, TimeUnit
from peterrec.data.logs.problems import Findings, Offender
from peterrec.data.logs.sql import FIRST_SECOND, LAST_SECOND, RAW, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Among small numbers, one from here on is a clock's.
_LARGEST_ORDER = 10**9


@dataclass(frozen=True)
class Clock:
    """How times are told: as timestamps, as whole numbers of a `unit`, or (neither) not at all."""

    unit: TimeUnit | None = None
    timestamps: bool = False

    @property
    def sql(self) -> str:
        """The time of an event as stored: int64 microseconds, or the number itself if it is a mere order."""
        if self.timestamps:
            return "micros"
        per_second = _PER_SECOND.get(self.unit or "")
        if per_second is None:
            return "ticks" if self.unit == "order" else "NULL::BIGINT"
        micros = f"ticks * {10**6 // per_second}" if per_second <= 10**6 else f"ticks // {per_second // 10**6}"
        # The engine may compute the times of bad rows before it leaves them out, and they may overflow.
        return f"CASE WHEN ticks {_window(per_second)} THEN {micros} END"


@dataclass(frozen=True)
class TimeRule:
    """A condition in SQL that no time may meet; a `note` leaves the row in."""

    name: str
    broken: str
    value: str
    fix: str
    note: bool = False


def find_clock(con: "DuckDBPyConnection", columns: LogColumns) -> Clock:
    """Tells the unit of the times from the size of their median, unless `columns` says it."""
    if columns.time is None:
        return Clock()
    # From 1973 on, a time in seconds lies below 10^11, and one in the next smaller unit above it.
    edges = [FIRST_SECOND, *(10**11 * 1000**n for n in range(3))]
    below = ", ".join(f"count(*) FILTER (ticks < {edge})" for edge in edges)
    query = f"SELECT count(ticks), count(micros), {below} FROM {RAW} WHERE ticks IS NULL OR ticks >= 0"
    whole, stamps, *counts = _row(con, query)
    if stamps > whole or (not whole and columns.time_unit == "auto"):
        return Clock(timestamps=True)
    if columns.time_unit != "auto":
        return Clock(columns.time_unit)
    units: tuple[TimeUnit, ...] = ("order", "s", "ms", "us", "ns")
    return Clock(units[sum(2 * count <= whole for count in counts)])


def time_rules(columns: LogColumns, clock: Clock) -> list[TimeRule]:
    """What no row's time may be: missing, of another unit or kind than most, or outside 1973 to 2099."""
    missing = "ticks IS NULL AND micros IS NULL AND flaw_rule IS DISTINCT FROM 'not_json'"
    missing += f" AND flaw_column IS DISTINCT FROM {text(columns.time)}"
    rules = [TimeRule("empty_time", missing, "NULL", "the time is missing; fill it or remove the row")]
    if clock.timestamps:
        inside = f"micros BETWEEN {FIRST_SECOND * 10**6} AND {LAST_SECOND * 10**6}"
        stamp = "make_timestamp(micros)"
        return [
            *rules,
            TimeRule("time_mixed", "ticks IS NOT NULL", "ticks", "a number among timestamps; write all in one way"),
            TimeRule("time_range", f"NOT ({inside})", stamp, "before 1973 or after 2099; mend it"),
            TimeRule("time_future", _future("micros", 10**6), stamp, "later than now; kept", note=True),
        ]
    kind = "a timestamp or a fraction of seconds among whole numbers; write all in one way"
    rules.append(TimeRule("time_mixed", "micros IS NOT NULL", "make_timestamp(micros)", kind))
    clocks = " OR ".join(f"ticks {_window(n)}" for u, n in _PER_SECOND.items() if u != clock.unit)
    if clock.unit == "order" and columns.time_unit == "order":
        return [*rules, TimeRule("time_range", "ticks < 0", "ticks", "negative; add a constant to all times")]
    if clock.unit == "order":
        fix = "a clock's number where most are small; write all times in one unit"
        far = f"ticks < 0 OR (ticks >= {_LARGEST_ORDER} AND NOT ({clocks}))"
        return [
            *rules,
            TimeRule("time_mixed", f"({clocks}) AND ticks >= {_LARGEST_ORDER}", "ticks", fix),
            TimeRule("time_range", far, "ticks", "negative, or far larger than most; mend it"),
        ]
    per_second, unit = _PER_SECOND[clock.unit or "s"], _NAMES[clock.unit or "s"]
    fix = f"not in {unit}, as most are; write all times in one unit"
    far = f"before 1973 or after 2099 in {unit}; mend it, or give --time-unit if that is wrong"
    outside = f"NOT (ticks {_window(per_second)}) AND NOT ({clocks})"
    return [
        *rules,
        TimeRule("time_mixed", clocks, "ticks", fix),
        TimeRule("time_range", outside, "ticks", far),
        TimeRule("time_future", _future("ticks", per_second), "ticks", "later than now; kept", note=True),
    ]


def note_times(con: "DuckDBPyConnection", columns: LogColumns, *, clock: Clock, findings: Findings) -> None:
    """Notes which unit was found, and the first and last time of the `events`."""
    if columns.time is None:
        fix = "there is no time column, so the order of the rows in the files is the order of the events"
        findings.add("time_order", "note", fix)
        return
    first, last = _row(con, "SELECT min(time), max(time) FROM events")
    ask = "" if clock.timestamps or columns.time_unit != "auto" else "; if that is wrong, give --time-unit"
    if clock.unit == "order":
        fix = "small whole numbers, taken for an order and not for a clock"
        if first >= 19_700_101 and last <= 21_001_231:
            fix += " (they look like dates written yyyymmdd, which is a right order too)"
        value = f"{first} to {last}"
    else:
        kind = "timestamps" if clock.timestamps else f"whole numbers of {_NAMES[clock.unit or 's']}"
        fix = f"{kind}, stored as microseconds (UTC)"
        value = f"{_readable(first)} to {_readable(last)}"
    findings.add("time_unit", "note", fix + ask, column=columns.time, offenders=[Offender(value=value)])


def _window(per_second: int) -> str:
    return f"BETWEEN {FIRST_SECOND * per_second} AND {LAST_SECOND * per_second}"


def _future(number: str, per_second: int) -> str:
    tomorrow = int(datetime.now(UTC).timestamp()) + 86_400
    return f"{number} > {tomorrow * per_second} AND {number} <= {LAST_SECOND * per_second}"


def _readable(micros: int) -> str:
    return datetime.fromtimestamp(micros // 10**6, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _row(con: "DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return row
