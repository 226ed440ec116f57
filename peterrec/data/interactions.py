"""Interaction logs: every fault is found and named before anything is computed, and the rest is a table of events."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from peterrec.data.log_columns import IdKind, LogColumns
from peterrec.data.log_files import find_files
from peterrec.data.log_parts import TABLE, Part, Parts, plan_file, plan_table, refuse_lack_of_room
from peterrec.data.log_rules import BAD, Clock, apply_rules, find_clock, note_duplicates, note_times
from peterrec.data.log_sql import CREATE_RAW, RAW, text
from peterrec.data.problems import CheckReport, Findings, Offender, Problem
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["CheckReport", "InteractionLog", "LogColumns", "LogSource", "Problem", "check_log", "open_log"]

LogSource = str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | pa.Table | pa.RecordBatchReader
DROP_HINT = "Mend these rows, or leave them out with --bad-rows drop."


@dataclass(frozen=True)
class InteractionLog:
    """A log that was read: `con` holds the view `events(user VARCHAR, item VARCHAR, time BIGINT, position BIGINT)`.

    Bad rows are left out. `time` is in microseconds since 1970 (UTC), or the plain number if `time_unit` is "order", or
    null without a time column; `position` counts the rows over all files, with gaps where rows were left out, and
    breaks ties. `id_types` are the kinds that the ids had before they became text. The database is temporary: further
    tables may be made in `con` and vanish with it.
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

    The events lie on disk in a temporary folder (below `temp_directory`, by default that of the system), so that
    memory stays within `memory_limit` whatever the size. Raises DataError if the log cannot be read, or, with
    `bad_rows="fail"`, if any row cannot be used; ResourceError if memory or disk gives out.
    """
    if bad_rows not in ("fail", "drop"):
        raise SettingsError(f"bad_rows is {bad_rows!r}; it must be 'fail' or 'drop'.")
    with _database(memory_limit, threads, temp_directory) as con:
        log = _read(con, paths, columns, thorough=False)
        if log.report.fatal or (bad_rows == "fail" and not log.report.ok):
            raise log.report.refusal(hint="" if log.report.fatal else DROP_HINT)
        yield log


def check_log(
    paths: LogSource,
    columns: LogColumns,
    *,
    memory_limit: str = "2GB",
    threads: int | None = None,
    temp_directory: Path | None = None,
) -> CheckReport:
    """Reads all of a log and reports every problem; leaves nothing behind. Raises ResourceError as `open_log` does."""
    with _database(memory_limit, threads, temp_directory) as con:
        return _read(con, paths, columns, thorough=True).report


@contextmanager
def _database(
    memory_limit: str, threads: int | None, temp_directory: Path | None
) -> "Iterator[DuckDBPyConnection]":
    """A DuckDB database in a temporary folder that vanishes afterwards."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="peterrec-", dir=temp_directory) as folder:
        with duckdb.connect(str(Path(folder) / "log.duckdb")) as con:
            try:
                con.execute(f"SET memory_limit = {text(memory_limit)}")
            except duckdb.Error:
                raise SettingsError(f"memory_limit is {memory_limit!r}; write it as 500MB or 2GB.") from None
            if threads is not None:
                con.execute(f"SET threads = {int(threads)}")
            con.execute(f"SET temp_directory = {text(Path(folder) / 'spill')}")
            con.execute("SET TimeZone = 'UTC'")
            con.execute("SET preserve_insertion_order = TRUE")
            con.execute("SET enable_progress_bar = FALSE")
            con.execute("SET autoinstall_known_extensions = FALSE")  # no network behind the user's back
            yield con


def _read(
    con: "DuckDBPyConnection", source: LogSource, columns: LogColumns, *, thorough: bool
) -> InteractionLog:
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
            bad = apply_rules(con, columns, clock=clock, places=parts.places, findings=findings)
            kept = f"WHERE rowid NOT IN (SELECT position FROM {BAD})" if bad else ""
            con.execute(
                f"CREATE VIEW events AS SELECT user, item, {clock.sql} AS time, rowid AS position FROM {RAW} {kept}"
            )
            if parts.rows > bad:
                note_times(con, columns, clock=clock, findings=findings)
                note_duplicates(con, columns, places=parts.places, findings=findings)
            elif not findings.fatal:
                fix = "no row can be used" if parts.rows or parts.rejected else "there are no rows"
                findings.add(
                    "no_rows", "fatal", fix, offenders=[Offender(names[0] if len(names) == 1 else "")]
                )
    except duckdb.Error as error:
        refuse_lack_of_room(error)
        raise
    report = findings.report(
        rows_read=parts.rows + parts.rejected, bad_rows=bad + parts.rejected, files=names
    )
    kinds = {c: {part.kinds[c] for part in parts.read} for c in (columns.user, columns.item)}
    id_types: dict[str, IdKind] = {
        role: next(iter(kinds[c])) if len(kinds[c]) == 1 else "text"
        for role, c in (("user", columns.user), ("item", columns.item))
    }
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
                fix = f"ids of kind {kind}, but {first.kinds[column]} in {first.name}; both become text, so 7 equals '7'"
                findings.add("types_differ", "note", fix, column=column, offenders=[Offender(part.name)])
        if set(part.names) != set(first.names):
            fix = f"other columns than in {first.name}; only those that were named are read"
            findings.add("columns_differ", "note", fix, offenders=[Offender(part.name)])
