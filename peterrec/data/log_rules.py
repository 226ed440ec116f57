"""What rows of a log must hold: ids that are not empty, times of one unit and within reason; and what is worth a note.

The rules run as SQL over `raw_events`; the rows that break one go to the table `bad_events`, by position.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from peterrec.data.log_columns import LogColumns, TimeUnit
from peterrec.data.log_sql import BLANK, FIRST_SECOND, LAST_SECOND, RAW, text
from peterrec.data.problems import SHOWN_OFFENDERS, Findings, Offender

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BAD = "bad_events"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_UNIT_NAMES = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "order": "an order",
}
_LARGEST_ORDER = 10**9  # no position in a sequence; a clock's number, if it stands among small ones
_MISSING_AS_TEXT = "('nan', 'null', 'none', 'na', 'n/a', 'nil', '\\n', '<na>', 'undefined')"
Places = Callable[[Sequence[int]], list[tuple[str, int]]]


@dataclass(frozen=True)
class Clock:
    """How the times of a log are told: as timestamps, as whole numbers of a `unit`, or not at all."""

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
        return f"ticks * {10**6 // per_second}" if per_second <= 10**6 else f"ticks // {per_second // 10**6}"


@dataclass(frozen=True)
class _Rule:
    name: str
    column: str
    broken: str  # SQL condition
    value: str  # SQL of the value to show
    fix: str
    note: bool = False


def find_clock(con: "DuckDBPyConnection", columns: LogColumns) -> Clock:
    """Tells the unit of the times from the size of their median, unless `columns` says it."""
    if columns.time is None:
        return Clock()
    edges = [FIRST_SECOND, *(10**11 * 1000**n for n in range(3))]
    below = ", ".join(f"count(*) FILTER (ticks < {edge})" for edge in edges)
    whole, stamps, *counts = _row(
        con, f"SELECT count(ticks), count(micros), {below} FROM {RAW} WHERE coalesce(ticks, 0) >= 0"
    )
    if stamps > whole or not whole:
        return Clock(timestamps=True)
    if columns.time_unit != "auto":
        return Clock(columns.time_unit)
    units: tuple[TimeUnit, ...] = ("order", "s", "ms", "us", "ns")
    return Clock(units[sum(2 * count <= whole for count in counts)])


def apply_rules(
    con: "DuckDBPyConnection", columns: LogColumns, *, clock: Clock, places: Places, findings: Findings
) -> int:
    """Reports each broken rule with its first offenders and fills `bad_events`; returns the number of bad rows."""
    rules = [*_flaws(columns), *_id_rules(columns), *_time_rules(columns, clock)]
    counts = _row(
        con, "SELECT " + ", ".join(f"count(*) FILTER ({rule.broken})" for rule in rules) + f" FROM {RAW}"
    )
    for rule, count in zip(rules, counts, strict=True):
        if not count:
            continue
        rows = con.execute(
            f"SELECT rowid, left(CAST({rule.value} AS VARCHAR), 200) FROM {RAW} WHERE {rule.broken} "
            f"ORDER BY rowid LIMIT {SHOWN_OFFENDERS}"
        ).fetchall()
        offenders = [
            Offender(file, row, value)
            for (file, row), (_, value) in zip(places([row for row, _ in rows]), rows, strict=True)
        ]
        severity = "note" if rule.note else "bad_row"
        findings.add(
            rule.name, severity, rule.fix, column=rule.column or None, offenders=offenders, count=count
        )
    broken = [
        f"({rule.broken})" for rule, count in zip(rules, counts, strict=True) if count and not rule.note
    ]
    con.execute(
        f"CREATE TABLE {BAD} AS SELECT rowid AS position FROM {RAW} WHERE {' OR '.join(broken) or 'FALSE'}"
    )
    return _row(con, f"SELECT count(*) FROM {BAD}")[0]


def note_times(con: "DuckDBPyConnection", columns: LogColumns, *, clock: Clock, findings: Findings) -> None:
    """Notes which unit was found, the first and last time of the `events`, and rows in the future."""
    first, last = _row(con, "SELECT min(time), max(time) FROM events")
    if columns.time is None:
        fix = "there is no time column, so the order of the rows in the files is the order of the events"
        findings.add("time_order", "note", fix)
    elif first is not None:
        kind = "timestamps" if clock.timestamps else f"whole numbers of {_UNIT_NAMES[clock.unit or 'order']}"
        if clock.unit == "order":
            fix = "small whole numbers, taken for an order and not for a clock"
            if 19_700_101 <= first and last <= 21_001_231:
                fix += " (they look like dates written yyyymmdd, which is a right order too)"
            value = f"{first} to {last}"
        else:
            fix = f"{kind}, stored as microseconds (UTC)"
            value = f"{_readable(first)} to {_readable(last)}"
        fix += (
            ""
            if clock.timestamps or columns.time_unit != "auto"
            else "; if that is wrong, give the time unit"
        )
        findings.add("time_unit", "note", fix, column=columns.time, offenders=[Offender(value=value)])


def note_duplicates(
    con: "DuckDBPyConnection", columns: LogColumns, *, places: Places, findings: Findings
) -> None:
    """Notes rows that repeat user, item and time of an earlier row; they are kept."""
    if columns.time is None:
        return  # the same item again is then an event like any other
    # Hashes first: the exact comparison then takes only the few rows that can be equal.
    con.execute("""CREATE TEMP TABLE suspects AS SELECT hash(user, item, time) AS h FROM events
        GROUP BY h HAVING count(*) > 1""")
    con.execute("""CREATE TEMP TABLE repeats AS SELECT position, user, item FROM events
        WHERE hash(user, item, time) IN (SELECT h FROM suspects)
        QUALIFY row_number() OVER (PARTITION BY user, item, time ORDER BY position) > 1""")
    (count,) = _row(con, "SELECT count(*) FROM repeats")
    if count:
        query = (
            f"SELECT position, user || ', ' || item FROM repeats ORDER BY position LIMIT {SHOWN_OFFENDERS}"
        )
        rows = con.execute(query).fetchall()
        found = zip(places([position for position, _ in rows]), rows, strict=True)
        offenders = [Offender(file, row, value) for (file, row), (_, value) in found]
        fix = "the same user, item and time as an earlier row; kept, so remove repeats that are no events"
        findings.add("duplicate_row", "note", fix, offenders=offenders, count=count)
    con.execute("DROP TABLE suspects; DROP TABLE repeats")


def _flaws(columns: LogColumns) -> list[_Rule]:
    flaws = [
        ("not_json", "", "not one JSON object; mend or remove the line"),
        *(("id_value", c, "ids must be text or whole numbers") for c in (columns.user, columns.item)),
        *(
            ("line_break", c, "a line break in an id; is a quote left open?")
            for c in (columns.user, columns.item)
        ),
    ]
    if columns.time is not None:
        fix = "not a time; write a whole number or ISO 8601 (2024-01-31T12:00:00Z)"
        flaws.append(("time_value", columns.time, fix))
    return [
        _Rule(
            rule,
            column,
            f"flaw_rule = {text(rule)}" + (f" AND flaw_column = {text(column)}" if column else ""),
            "flaw_value",
            fix,
        )  # fmt: skip
        for rule, column, fix in flaws
    ]


def _id_rules(columns: LogColumns) -> list[_Rule]:
    rules: list[_Rule] = []
    for column, name in ((columns.user, '"user"'), (columns.item, '"item"')):
        unflawed = f"flaw_rule IS DISTINCT FROM 'not_json' AND flaw_column IS DISTINCT FROM {text(column)}"
        blank = f"({name} IS NULL OR regexp_full_match({name}, {BLANK}))"
        missing = f"lower(trim({name})) IN {_MISSING_AS_TEXT}"
        padded = f"regexp_matches({name}, '^\\s|\\s$') AND NOT {blank}"
        rules += [
            _Rule(
                "empty_id",
                column,
                f"{blank} AND {unflawed}",
                name,
                "the id is missing; fill it or remove the row",
            ),
            _Rule("nul_byte", column, f"contains({name}, chr(0))", name, "a NUL byte in the id; remove it"),
            _Rule(
                "missing_as_text",
                column,
                missing,
                name,
                "is this id a missing value written as text? kept",
                True,
            ),
            _Rule(
                "padded_id",
                column,
                padded,
                name,
                "spaces around the id belong to it; strip them if not meant",
                True,
            ),
        ]
    return rules


def _time_rules(columns: LogColumns, clock: Clock) -> list[_Rule]:
    column = columns.time
    if column is None:
        return []
    missing = "ticks IS NULL AND micros IS NULL AND flaw_rule IS DISTINCT FROM 'not_json'"
    missing += f" AND flaw_column IS DISTINCT FROM {text(column)}"
    rules = [_Rule("empty_time", column, missing, "NULL", "the time is missing; fill it or remove the row")]
    window = f"BETWEEN {FIRST_SECOND} AND {LAST_SECOND}"
    if clock.timestamps:
        fix = "a number among timestamps; write all times in one way"
        seconds = "(micros // 1000000)"
        stamp = "make_timestamp(micros)"
        return [
            *rules,
            _Rule("time_mixed", column, "ticks IS NOT NULL", "ticks", fix),
            _Rule(
                "time_range", column, f"{seconds} NOT {window}", stamp, "before 1973 or after 2099; mend it"
            ),
            _Rule("time_future", column, _future("micros", 10**6), stamp, "later than now; kept", True),
        ]
    clocks = " OR ".join(
        f"ticks BETWEEN {FIRST_SECOND * n} AND {LAST_SECOND * n}"
        for u, n in _PER_SECOND.items()
        if u != clock.unit
    )
    told = columns.time_unit == "auto"
    if clock.unit == "order":
        mixed = f"({clocks}) AND ticks >= {_LARGEST_ORDER}" if told else "FALSE"
        outside = f"ticks < 0 OR (ticks >= {_LARGEST_ORDER} AND NOT ({clocks}))" if told else "ticks < 0"
        fix = "a clock's number where most are small; write all times in one unit"
        far = "negative or far larger than most; mend it, or add a constant to all"
    else:
        per_second = _PER_SECOND[clock.unit or "s"]
        inside = f"ticks BETWEEN {FIRST_SECOND * per_second} AND {LAST_SECOND * per_second}"
        mixed, outside = clocks, f"NOT ({inside}) AND NOT ({clocks})"
        unit = _UNIT_NAMES[clock.unit or "s"]
        fix = f"not in {unit}, as most are; write all times in one unit"
        far = f"before 1973 or after 2099 in {unit}; mend it, or give the time unit if that is wrong"
    rules += [
        _Rule("time_mixed", column, mixed, "ticks", fix),
        _Rule("time_mixed", column, "micros IS NOT NULL", "make_timestamp(micros)", "a timestamp or fraction among whole numbers; write all times in one way"),
        _Rule("time_range", column, outside, "ticks", far),
    ]  # fmt: skip
    if clock.unit != "order":
        future = _future("ticks", _PER_SECOND[clock.unit or "s"])
        rules.append(_Rule("time_future", column, future, "ticks", "later than now; kept", True))
    return rules


def _future(number: str, per_second: int) -> str:
    tomorrow = int(datetime.now(UTC).timestamp()) + 86_400
    return f"{number} > {tomorrow * per_second} AND {number} <= {LAST_SECOND * per_second}"


def _readable(micros: int) -> str:
    return (
        datetime.fromtimestamp(micros / 1e6, UTC)
        .isoformat(sep=" ", timespec="seconds")
        .removesuffix("+00:00")
    )


def _row(con: "DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return row
