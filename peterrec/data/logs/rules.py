"""What rows of a log must hold: ids that are not empty, times of one unit and within reason; and notes.

The rules run as SQL over `raw_events`; the rows that break one go to the table `bad_events`, by position.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peterrec.data.logs.clock import Clock, TimeRule, time_rules
from peterrec.data.logs.columns import LogColumns
from peterrec.data.logs.problems import SHOWN_OFFENDERS, Findings, Offender, Severity
from peterrec.data.logs.sql import BLANK, RAW, text

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BAD = "bad_events"
_MISSING_AS_TEXT = "nan|null|none|na|n/a|nil|nat|<na>|undefined"
# Whatever is wrong with an id or worth a note, in one pattern; most logs have none of it.
_SUSPICIOUS = rf"'(?i)^$|^[\s\p{{Z}}]|[\s\p{{Z}}]$|\x00|^({_MISSING_AS_TEXT})$'"
Places = Callable[[Sequence[int]], list[tuple[str, int]]]


@dataclass(frozen=True)
class _Rule:
    name: str
    column: str | None
    broken: str  # SQL condition
    value: str  # SQL of the value to show
    fix: str
    severity: Severity = "bad_row"


def apply_rules(
    con: "DuckDBPyConnection",
    columns: LogColumns,
    *,
    clock: Clock,
    numbers: Collection[str],
    places: Places,
    findings: Findings,
) -> int:
    """Reports each broken rule with its first offenders, fills `bad_events`, returns the number of bad rows.

    `numbers` are the id columns that hold integers or UUIDs, which can be missing and nothing else.
    """
    rules = [_of_time(rule, columns) for rule in time_rules(columns, clock)] if columns.time is not None else []
    rules += _suspected(con, columns, numbers)
    counts = [f"count(*) FILTER ({rule.broken})" for rule in rules]
    totals = _row(con, f"SELECT {', '.join(counts)} FROM {RAW}") if rules else ()
    found = [(rule, count) for rule, count in zip(rules, totals, strict=True) if count]
    for rule, count in found:
        rows = con.execute(
            f"SELECT rowid, left(CAST({rule.value} AS VARCHAR), 200) FROM {RAW} WHERE {rule.broken} "
            f"ORDER BY rowid LIMIT {SHOWN_OFFENDERS}"
        ).fetchall()
        offenders = _offenders(rows, places)
        findings.add(rule.name, rule.severity, rule.fix, column=rule.column, offenders=offenders, count=count)
    broken = " OR ".join(f"({rule.broken})" for rule, _ in found if rule.severity != "note") or "FALSE"
    con.execute(f"CREATE TABLE {BAD} AS SELECT rowid AS position FROM {RAW} WHERE {broken}")
    return _row(con, f"SELECT count(*) FROM {BAD}")[0]


def note_duplicates(con: "DuckDBPyConnection", columns: LogColumns, *, places: Places, findings: Findings) -> None:
    """Notes rows of `events` that repeat user, item and time of an earlier row; they are kept."""
    if columns.time is None:
        return  # the same item again is then an event like any other
    # Hashes first: the exact comparison then takes only the few rows that can be equal.
    con.execute(
        "CREATE TEMP TABLE suspects AS SELECT hash(user, item, time) AS h FROM events GROUP BY h HAVING count(*) > 1"
    )
    con.execute("""CREATE TEMP TABLE repeats AS SELECT position, user, item FROM events
        WHERE hash(user, item, time) IN (SELECT h FROM suspects)
        QUALIFY row_number() OVER (PARTITION BY user, item, time ORDER BY position) > 1""")
    (count,) = _row(con, "SELECT count(*) FROM repeats")
    if count:
        query = f"SELECT position, user || ', ' || item FROM repeats ORDER BY position LIMIT {SHOWN_OFFENDERS}"
        offenders = _offenders(con.execute(query).fetchall(), places)
        fix = "the same user, item and time as an earlier row; kept, so remove repeats that are no events"
        findings.add("duplicate_row", "note", fix, offenders=offenders, count=count)
    con.execute("DROP TABLE suspects; DROP TABLE repeats")


def _suspected(con: "DuckDBPyConnection", columns: LogColumns, numbers: Collection[str]) -> list[_Rule]:
    """The rules that any row can break at all, told by one cheap pass; the full rules take a second one."""
    ids = {'"user"': columns.user, '"item"': columns.item}
    suspicious = []
    for name, column in ids.items():
        odd = "" if column in numbers else f" OR ({_odd(name)})"
        suspicious.append(f"count(*) FILTER ({name} IS NULL{odd})")
    flaws, *odd_ids = _row(con, f"SELECT count(flaw_rule), {', '.join(suspicious)} FROM {RAW}")
    rules = _flaw_rules(columns) if flaws else []
    for (name, column), count in zip(ids.items(), odd_ids, strict=True):
        rules += _id_rules(name, column) if count else []
    return rules


def _odd(name: str) -> str:
    # Plain integers are told from the rest at a third of the cost of the pattern.
    return (
        f"CAST(TRY_CAST({name} AS BIGINT) AS VARCHAR) IS DISTINCT FROM {name} AND regexp_matches({name}, {_SUSPICIOUS})"
    )


def _flaw_rules(columns: LogColumns) -> list[_Rule]:
    """The rules for values that could not be turned into ids and times when they were read."""
    ids = (columns.user, columns.item)
    flaws: list[tuple[str, str | None, str]] = [
        ("not_json", None, "not one JSON object; mend or remove the line"),
        *(("id_value", column, "ids must be text or whole numbers; mend it") for column in ids),
        *(("line_break", column, "a line break in an id; is a quote left open?") for column in ids),
        *(("rows_in_quotes", column, "an open quote has swallowed whole rows; close it") for column in ids),
    ]
    if columns.time is not None:
        fix = "not a time; write a whole number or ISO 8601 (2024-01-31T12:00:00Z)"
        flaws.append(("time_value", columns.time, fix))
    rules: list[_Rule] = []
    for rule, column, fix in flaws:
        where = "" if column is None else f" AND flaw_column = {text(column)}"
        severity: Severity = "fatal" if rule == "rows_in_quotes" else "bad_row"
        rules.append(_Rule(rule, column, f"flaw_rule = {text(rule)}{where}", "flaw_value", fix, severity))
    return rules


def _id_rules(name: str, column: str) -> list[_Rule]:
    blank = f"({name} IS NULL OR regexp_full_match({name}, {BLANK}))"
    # What is null because it could not be read is reported as that.
    unflawed = f"flaw_rule IS DISTINCT FROM 'not_json' AND flaw_column IS DISTINCT FROM {text(column)}"
    missing = f"regexp_full_match({name}, '(?i)\\s*({_MISSING_AS_TEXT})\\s*')"
    padded = f"regexp_matches({name}, '^[\\s\\p{{Z}}]|[\\s\\p{{Z}}]$') AND NOT {blank}"
    return [
        _Rule(
            "empty_id",
            column,
            f"{blank} AND {unflawed}",
            name,
            "the id is missing; fill it or remove the row",
        ),
        _Rule("nul_byte", column, f"contains({name}, chr(0))", name, "a NUL byte in the id; remove it"),
        _Rule("missing_as_text", column, missing, name, "is this a missing value written as text? kept", "note"),
        _Rule(
            "padded_id",
            column,
            padded,
            name,
            "the spaces around the id belong to it; strip them if not",
            "note",
        ),
    ]


def _of_time(rule: TimeRule, columns: LogColumns) -> _Rule:
    return _Rule(rule.name, columns.time, rule.broken, rule.value, rule.fix, "note" if rule.note else "bad_row")


def _offenders(rows: Sequence[tuple[int, str | None]], places: Places) -> list[Offender]:
    found = places([position for position, _ in rows])
    return [Offender(file, row, value) for (file, row), (_, value) in zip(found, rows, strict=True)]


def _row(con: "DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return row
