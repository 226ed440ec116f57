"""From files of impressions to a folder of arrays: read, check, join, write."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peterrec.atomic import atomic_folder
from peterrec.data.domain_logs import BadRows, room
from peterrec.data.impressions import NOTE
from peterrec.data.impressions.content_rules import refuse_leaks, refuse_useless_labels, settle_kinds
from peterrec.data.impressions.history import History, add_history
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.data.impressions.reader import RawRows, Roles, find_columns, names_of, read_raw
from peterrec.data.impressions.row_rules import sift_rows
from peterrec.data.impressions.schema import ColumnOf, HistoryColumns, Schema, Table
from peterrec.data.impressions.side_table import SideTable
from peterrec.data.impressions.wanted import Wanted
from peterrec.data.impressions.writer import domain_values, write_arrays, write_note
from peterrec.data.logs.database import temporary_database
from peterrec.data.logs.interactions import DROP_HINT, CheckReport, LogSource, check_log
from peterrec.data.logs.problems import Findings
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Sources:
    """The impressions, and what is joined to them: tables of users and items, and a log of events before them."""

    rows: LogSource
    side: Mapping[Table, SideTable]
    history: History | None = None


def check_impressions(sources: Sources, wanted: Wanted, *, memory_limit: str = "2GB") -> CheckReport:
    """Reads impressions, side tables and the history, and reports every problem; writes nothing.

    Raises SettingsError for options that do not fit, ResourceError if memory or disk gives out.
    """
    _refuse_unfit(sources, wanted)
    with temporary_database(memory_limit, None, None) as con, room():
        report, _, _ = _examine(con, sources, wanted)
    if sources.history is not None:
        report += check_log(sources.history.log, sources.history.columns, memory_limit=memory_limit)
    return report


def write_impressions(
    sources: Sources, wanted: Wanted, *, folder: Path, bad_rows: BadRows = "fail", memory_limit: str = "2GB"
) -> Impressions:
    """Check and join the files and write them to `folder`, which appears whole at the end.

    The content, and so the fingerprint, follows from the data alone. Impressions that stood in `folder` are replaced;
    SettingsError if anything else stands there. Raises what `fill_folder` raises.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / NOTE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder}: holds something else than impressions; name another folder, or move it away.")
    with atomic_folder(folder) as unfinished:
        fill_folder(sources, wanted, folder=unfinished, bad_rows=bad_rows, memory_limit=memory_limit)
    return open_impressions(folder)


def fill_folder(
    sources: Sources, wanted: Wanted, *, folder: Path, bad_rows: BadRows, memory_limit: str
) -> tuple[dict[str, Any], str]:
    """Writes what `open_impressions` opens into an empty folder; returns the summary and the fingerprint.

    Raises SettingsError for options that do not fit, DataError for data that cannot be used, with all that is wrong,
    and ResourceError if memory or disk gives out.
    """
    _refuse_unfit(sources, wanted)
    with temporary_database(memory_limit, None, None) as con, room():
        report, raw, schema = _examine(con, sources, wanted)
        if report.fatal or (bad_rows == "fail" and not report.ok):
            raise report.refusal(hint="" if report.fatal else DROP_HINT)
        assert raw is not None
        assert schema is not None
        summary = write_arrays(raw, folder, schema=schema)
        known = add_history(
            raw, sources.history, folder=folder, bad_rows=bad_rows, memory_limit=memory_limit, strict=True
        )
        notes = [str(problem) for problem in report.problems if problem.severity == "note"]
        own = raw.report(Findings())  # the other report counts the rows of side tables too
        summary |= {"history": known, "rows_read": own.rows_read, "bad_rows": own.bad_rows, "notes": notes}
        vocabulary = None if sources.history is None else sources.history.vocabulary
        return summary, write_note(folder, schema=schema, summary=summary, vocabulary=vocabulary)


def _refuse_unfit(sources: Sources, wanted: Wanted) -> None:
    for table, column in (("users", wanted.user), ("items", wanted.item)):
        if table in sources.side and column is None:
            raise SettingsError(
                f"--{table} is joined by the {table[:-1]} of a row; name its column with --{table[:-1]}."
            )
    if sources.history is not None and (wanted.user is None or wanted.time is None):
        raise SettingsError(
            "--history is joined by the user and the time of a row, for what was known before it; name these columns: "
            "--user, --time."
        )


def _examine(
    con: "DuckDBPyConnection", sources: Sources, wanted: Wanted
) -> tuple[CheckReport, RawRows | None, Schema | None]:
    """Reads all and finds all that is wrong; raw rows and schema are None after fatal problems."""
    findings = Findings()
    roles = Roles(wanted.user, wanted.item, wanted.time, wanted.time_unit)
    fields = [field.name for field in wanted.fields]
    further = [name for name in (wanted.domain, wanted.weight) if name is not None]
    columns = list(dict.fromkeys([*(rule.column for rule in wanted.labels), *fields, *further]))
    side = sources.side
    tables = find_columns(columns, names=names_of(sources.rows, roles=roles), side=side)
    _refuse_idle(side, tables)
    raw = read_raw(
        con,
        sources.rows,
        roles=roles,
        tables=tables,
        side=side,
        findings=findings,
    )
    schema = None
    if raw.joined:
        categorical = [field.name for field in wanted.fields if field.kind == "categorical"]
        sift_rows(
            raw,
            labels=wanted.labels,
            numeric=[field.name for field in wanted.fields if field.kind == "numeric"],
            single=[*(rule.column for rule in wanted.labels), *categorical, *further],
            weight=wanted.weight,
            findings=findings,
        )
    if raw.joined and not findings.fatal:
        settled = settle_kinds(raw, wanted.fields, ids=(wanted.user, wanted.item, wanted.domain))
        refuse_useless_labels(raw, wanted.labels, findings)
        refuse_leaks(raw, settled, wanted.labels, domain=wanted.domain, findings=findings)
        schema = Schema(
            fields=settled,
            rules=wanted.labels,
            domains=() if wanted.domain is None else domain_values(raw, wanted.domain),
            user=wanted.user,
            item=wanted.item,
            time=wanted.time,
            time_unit=raw.clock.unit or "auto",
            domain=_column(raw, wanted.domain),
            weight=_column(raw, wanted.weight),
            split=wanted.split,
            history=_columns_of(sources.history),
        )
    report = raw.report(findings)
    for table in side.values():
        report = report if table.report is None else report + table.report
    return (report, None, None) if report.fatal else (report, raw, schema)


def _refuse_idle(side: Mapping[Table, SideTable], tables: Mapping[str, Table | None]) -> None:
    """Raises SettingsError for a side table that none of the wanted columns comes from."""
    for table, found in side.items():
        if found.names and table not in tables.values():
            raise SettingsError(
                f"--{table}: nothing that was asked for comes from this table. Name fields of it with --field (it has "
                f"{', '.join(sorted(found.names))}), or leave it out. Columns of the impressions come first."
            )


def _column(raw: RawRows, name: str | None) -> ColumnOf | None:
    return None if name is None else ColumnOf(name=name, table=raw.tables[name])


def _columns_of(history: History | None) -> HistoryColumns | None:
    if history is None or history.columns.time is None:
        return None
    columns = history.columns
    return HistoryColumns(user=columns.user, item=columns.item, time=history.columns.time, time_unit=columns.time_unit)
