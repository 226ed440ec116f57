"""Interaction logs: every fault is found and named before anything is computed; the sound rows are events."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from peterrec.data.logs.clock import Clock, find_clock, note_times
from peterrec.data.logs.columns import IdKind, LogColumns
from peterrec.data.logs.database import temporary_database
from peterrec.data.logs.files import find_files
from peterrec.data.logs.parts import Part, Parts, refuse_lack_of_room
from peterrec.data.logs.plans import TABLE, plan_file, plan_table
from peterrec.data.logs.problems import CheckReport, Findings, Offender, Problem
from peterrec.data.logs.rules import BAD, apply_rules, note_duplicates
from peterrec.data.logs.sql import CREATE_RAW, RAW
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = [
    "CheckReport",
    "InteractionLog",
    "LogColumns",
    "LogSource",
    "Problem",
    "check_log",
    "inspect_log",
    "open_log",
]

LogSource = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | pa.Table | pa.RecordBatchReader
DROP_HINT = "Mend these rows, or leave them out with --bad-rows drop."


@dataclass(frozen=True)
class InteractionLog:
    """A log that was read: `con` holds `events(user VARCHAR, item VARCHAR, time BIGINT, position BIGINT)`.

    Bad rows are left out. `time` is in microseconds since 1970 (UTC), or the plain number if `time_unit` is
    "order", or null without a time column; `position` numbers the rows over all files from 0, with gaps where
    rows were left out, and breaks ties. `id_types` (of "user" and "item") says what the ids were before they
    became text. The database is temporary: further tables may be made in `con` and vanish with it.
    """

    con: "DuckDBPyConnection"
    report: CheckReport
    has_time: bool
    time_unit: Literal["s", "ms", "us", "ns", "order", "timestamp"] | None
    id_types: dict[str, IdKind]


@contextmanager
def open_log(
    paths: LogSource,
    columns: LogColumns,
    *,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    threads: int | None = None,
    temp_directory: Path | None = None,
) -> Iterator[InteractionLog]:
    """Reads a log: files, folders, globs (mixed formats too), or rows in Arrow; yields its events.

    The events lie on disk in a temporary folder (below `temp_directory`, by default that of the system), so
    that memory stays within `memory_limit` whatever the size. Raises DataError if the log cannot be read, or,
    with `bad_rows="fail"`, if any row cannot be used; ResourceError if memory or disk gives out.
    """
    if bad_rows not in ("fail", "drop"):
        raise SettingsError(f"bad_rows is {bad_rows!r}; it must be 'fail' or 'drop'.")
    with temporary_database(memory_limit, threads, temp_directory) as con:
        log = _read(con, paths, columns, thorough=False)
        if log.report.fatal or (bad_rows == "fail" and not log.report.ok):
            raise log.report.refusal(hint="" if log.report.fatal else DROP_HINT)
        yield log


@contextmanager
def inspect_log(
    paths: LogSource,
    columns: LogColumns,
    *,
    memory_limit: str = "2GB",
    threads: int | None = None,
    temp_directory: Path | None = None,
) -> Iterator[InteractionLog]:
    """Like `open_log`, but faults stand in the report alone; `events`, if any, holds what could be read."""
    with temporary_database(memory_limit, threads, temp_directory) as con:
        yield _read(con, paths, columns, thorough=True)


def check_log(
    paths: LogSource,
    columns: LogColumns,
    *,
    memory_limit: str = "2GB",
    threads: int | None = None,
    temp_directory: Path | None = None,
) -> CheckReport:
    """Reads all of a log and reports every problem; leaves nothing behind.

    Raises ResourceError if memory or disk gives out.
    """
    with inspect_log(paths, columns, memory_limit=memory_limit, threads=threads, temp_directory=temp_directory) as log:
        return log.report


def _read(con: "DuckDBPyConnection", source: LogSource, columns: LogColumns, *, thorough: bool) -> InteractionLog:
    """Reads what can be read; a `thorough` read goes on after fatal problems, to find the others."""
    import duckdb

    findings = Findings()
    planned: list[Part | None]
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        names = [TABLE]
        planned = [plan_table(source, columns, findings)]
    else:
        files = find_files(source, findings)
        names = [file.name for file in files]
        planned = [plan_file(file, columns, findings) for file in files]
    parts = Parts()
    clock, bad = Clock(), 0
    try:
        con.execute(CREATE_RAW)
        if thorough or not findings.fatal:
            for part in planned:
                if part is not None:
                    parts.add(con, part, findings)
            _note_differences(parts.read, findings)
            clock = find_clock(con, columns)
            bad = apply_rules(
                con,
                columns,
                clock=clock,
                numbers=parts.number_columns,
                places=parts.places,
                findings=findings,
            )
            kept = f"WHERE rowid NOT IN (SELECT position FROM {BAD})" if bad else ""
            event = f"user, item, {clock.sql} AS time, rowid AS position"
            con.execute(f"CREATE VIEW events AS SELECT {event} FROM {RAW} {kept}")
            if parts.rows > bad:
                note_times(con, columns, clock=clock, findings=findings)
                note_duplicates(con, columns, places=parts.places, findings=findings)
            elif not findings.fatal:
                fix = "no row can be used" if parts.rows or parts.rejected else "there are no rows"
                findings.add("no_rows", "fatal", fix, offenders=[Offender(names[0] if len(names) == 1 else "")])
    except duckdb.Error as error:
        refuse_lack_of_room(error)
        raise
    report = findings.report(rows_read=parts.rows + parts.rejected, bad_rows=bad + parts.rejected, files=names)
    id_types: dict[str, IdKind] = {}
    for role, column in (("user", columns.user), ("item", columns.item)):
        kinds: list[IdKind] = [part.kinds[column] for part in parts.read]
        id_types[role] = kinds[0] if len(set(kinds)) == 1 else "text"
    has_time = columns.time is not None
    unit = None if not has_time else "timestamp" if clock.timestamps else clock.unit
    assert unit != "auto"
    return InteractionLog(con, report, has_time, unit, id_types)


def _note_differences(parts: list[Part], findings: Findings) -> None:
    """Notes where files of one log differ in columns or in the kind of their ids."""
    if len(parts) < 2:
        return
    first = parts[0]
    for part in parts[1:]:
        for column, kind in part.kinds.items():
            if kind != first.kinds[column]:
                fix = f"ids are {kind}, but {first.kinds[column]} in {first.name}; as text 7 equals '7'"
                findings.add("types_differ", "note", fix, column=column, offenders=[Offender(part.name)])
        if set(part.names) != set(first.names):
            fix = f"other columns than in {first.name}; only those that were named are read"
            findings.add("columns_differ", "note", fix, offenders=[Offender(part.name)])
