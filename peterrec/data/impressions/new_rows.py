"""New impressions for a model: read by the schema of those that it learned from."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from peterrec.data.domain_logs import BadRows, room
from peterrec.data.impressions.history import History, add_history
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.data.impressions.reader import Roles, find_columns, names_of, read_raw
from peterrec.data.impressions.row_rules import sift_rows
from peterrec.data.impressions.schema import Schema, Table
from peterrec.data.impressions.side_table import SideTable
from peterrec.data.impressions.writer import write_arrays, write_note
from peterrec.data.logs.database import temporary_database
from peterrec.data.logs.interactions import DROP_HINT, LogSource
from peterrec.data.logs.problems import Findings
from peterrec.errors import SettingsError


@contextmanager
def read_rows(
    source: LogSource,
    schema: Schema,
    *,
    side: Mapping[Table, SideTable] | None = None,
    history: History | None = None,
    optional: Collection[str] = (),
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
) -> Iterator[Impressions]:
    """Impressions in the order of the files, with the fields of `schema`; they go when the block ends.

    Labels may be absent, and so may the columns named `optional` (fields that are not known when one predicts): these
    are missing then. User, item and time may be absent without a `history`, ids also where no side table is joined by
    them; with one, rows without a time column come after all of it. A side table need not know any of the ids. Values
    that the model never saw stand in the rows' own lists; domains keep the model's numbers, with −1 for others. Weights
    are not read.

    Raises SettingsError for a side table that is missing or cannot be joined, DataError for rows that cannot be used,
    with all that is wrong, and ResourceError if memory or disk gives out.
    """
    side = side or {}
    _refuse_sides(schema, side)
    wanted = Roles(schema.user, schema.item, schema.time, schema.time_unit)
    names = names_of(source, roles=Roles())
    of_labels = {rule.column for rule in schema.rules}
    fields = [field.name for field in schema.fields]
    domain = [] if schema.domain is None else [schema.domain.name]
    tables = find_columns(
        list(dict.fromkeys([*(rule.column for rule in schema.rules), *fields, *domain])),
        names=names,
        side=side,
        optional={*optional, *of_labels},
    )
    if names:
        _refuse_absent(schema, tables, names=names, side=side)
    joined = {table for column, table in tables.items() if column not in of_labels}
    roles = Roles(
        schema.user if history is not None or "users" in joined or schema.user in names else None,
        schema.item if history is not None or "items" in joined or schema.item in names else None,
        schema.time if schema.time in names else None,
        wanted.time_unit if schema.time in names else "auto",
    )
    labels = [rule for rule in schema.rules if tables[rule.column] is not None]
    read = schema.model_copy(
        update={"user": roles.user, "item": roles.item, "time": roles.time, "weight": None, "history": None}
    )
    findings = Findings()
    with (
        tempfile.TemporaryDirectory(prefix="peterrec-") as temporary,
        temporary_database(memory_limit, None, None) as con,
        room(),
    ):
        raw = read_raw(con, source, roles=roles, tables=tables, side=side, findings=findings, strict=False)
        if raw.joined:
            sift_rows(
                raw,
                labels=labels,
                numeric=[name for name in schema.of_kind("numeric") if name in raw.tables],
                single=[name for name in raw.tables if name not in schema.of_kind("multi")],
                weight=None,
                findings=findings,
            )
        report = raw.report(findings)
        for table in side.values():
            report = report if table.report is None else report + table.report
        if report.fatal or (bad_rows == "fail" and not report.ok):
            raise report.refusal(hint="" if report.fatal else DROP_HINT)
        folder = Path(temporary)
        summary = write_arrays(raw, folder, schema=read)
        known = add_history(raw, history, folder=folder, bad_rows=bad_rows, memory_limit=memory_limit, strict=False)
        summary |= {"history": known, "rows_read": report.rows_read, "bad_rows": report.bad_rows}
        write_note(folder, schema=read, summary=summary, vocabulary=None if history is None else history.vocabulary)
        yield open_impressions(folder)


def _refuse_sides(schema: Schema, side: Mapping[Table, SideTable]) -> None:
    """Raises SettingsError for a side table that no column of the rows joins."""
    for table, column in (("users", schema.user), ("items", schema.item)):
        if table in side and column is None:
            raise SettingsError(
                f"--{table}: the model learnt from impressions without a column of the {table[:-1]}, so nothing joins "
                "this table to the rows; leave it out."
            )


def _refuse_absent(
    schema: Schema, tables: Mapping[str, Table | None], *, names: Collection[str], side: Mapping[Table, SideTable]
) -> None:
    """Raises SettingsError where fields stood in a side table that was not given, and are not in the rows either."""
    beside = [*schema.fields, *([] if schema.domain is None else [schema.domain])]
    for table in ("users", "items"):
        lacking = [
            one.name
            for one in beside
            if one.table == table and table not in side and tables[one.name] == "rows" and one.name not in names
        ]
        if lacking:
            raise SettingsError(
                f"--{table} is missing: the model reads {', '.join(lacking)} of a table of {table}; name that table, "
                "or give LOG these columns."
            )
