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
    are missing then. User, item and time may be absent without a `history`; with one, rows without a time column come
    after all of it. Values that the model never saw stand in the rows' own lists; domains keep the model's numbers,
    with −1 for others. Weights are not read.

    Raises DataError for rows that cannot be used, with all that is wrong, and ResourceError if memory or disk gives
    out.
    """
    side = side or {}
    wanted = Roles(schema.user, schema.item, schema.time, schema.time_unit)
    names = names_of(source, roles=Roles())
    needed = history is not None
    roles = Roles(
        schema.user if needed or schema.user in names else None,
        schema.item if needed or schema.item in names else None,
        schema.time if schema.time in names else None,
        wanted.time_unit if schema.time in names else "auto",
    )
    fields = [field.name for field in schema.fields]
    domain = [] if schema.domain is None else [schema.domain.name]
    tables = find_columns(
        list(dict.fromkeys([*(rule.column for rule in schema.rules), *fields, *domain])),
        names=names,
        side=side,
        optional={*optional, *(rule.column for rule in schema.rules)},
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
        raw = read_raw(con, source, roles=roles, tables=tables, side=side, findings=findings)
        if not findings.fatal:
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
