"""Reading a table of impressions, and the tables of users and items beside it, into a database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

import pyarrow as pa

from peterrec.data.impressions.cells import Cell
from peterrec.data.impressions.part_rows import ABSENT, read_part
from peterrec.data.impressions.schema import Table
from peterrec.data.impressions.side_table import SideTable
from peterrec.data.logs import sql
from peterrec.data.logs.clock import Clock, find_clock
from peterrec.data.logs.column_names import column_names
from peterrec.data.logs.columns import LogColumns, TimeUnit
from peterrec.data.logs.files import find_files
from peterrec.data.logs.interactions import LogSource
from peterrec.data.logs.parts import Part, Parts
from peterrec.data.logs.plans import TABLE, plan_file, plan_table
from peterrec.data.logs.problems import CheckReport, Findings, Offender
from peterrec.data.logs.rules import BAD, apply_rules
from peterrec.data.numbering import one_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass(frozen=True)
class Roles:
    """The columns of user, item and time of the impressions, where they have some."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "auto"


@dataclass(frozen=True)
class _Columns(LogColumns):
    """The wanted columns of a file, of which only those of user and item must hold ids."""

    wanted: tuple[str, ...] = ()
    roles: Roles = Roles()

    @property
    def names(self) -> list[str]:
        return list(self.wanted)

    @property
    def ids(self) -> list[str]:
        return [name for name in dict.fromkeys((self.roles.user, self.roles.item)) if name is not None]


@dataclass(frozen=True)
class RawRows:
    """What was read: the view `joined`, a row an impression, with position, user, item, time and all wanted cells.

    `places` numbers the wanted columns: that of number k stands in `joined` as a text `t<k>`, a list `l<k>` and a
    number `n<k>`, null where it is none. `tables` says where each was found. Rows that broke a rule of logs stand in
    `bad_events`. After fatal problems, here or in a side table, `joined` is false: there is no such view.
    """

    con: "DuckDBPyConnection"
    parts: Parts
    names: list[str]
    roles: Roles
    clock: Clock
    places: dict[str, int]
    tables: dict[str, Table]
    joined: bool = False

    def text(self, name: str) -> str:
        """The text of a column in `joined`."""
        return f"t{self.places[name]}"

    def listed(self, name: str) -> str:
        """The list of a column in `joined`."""
        return f"l{self.places[name]}"

    def number(self, name: str) -> str:
        """The number of a column in `joined`."""
        return f"n{self.places[name]}"

    @property
    def place(self) -> Offender:
        """The file, for problems of all rows together; none of several."""
        return Offender(self.names[0] if len(self.names) == 1 else "")

    def report(self, findings: Findings) -> CheckReport:
        """What was found, with the number of rows."""
        (bad,) = one_row(self.con, f"SELECT count(*) FROM {BAD}")
        rejected = self.parts.rejected
        return findings.report(rows_read=self.parts.rows + rejected, bad_rows=bad + rejected, files=self.names)


def names_of(source: LogSource, *, roles: Roles) -> Collection[str]:
    """The columns of the impressions; none where they cannot be read, which reading them will report."""
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        return cast(pa.Table, source).schema.names
    certain = [name for name in (roles.user, roles.item, roles.time) if name is not None]
    return column_names(source, wanted=certain)


def find_columns(
    columns: Sequence[str],
    *,
    names: Collection[str],
    side: Mapping[Table, SideTable],
    optional: Collection[str] = (),
) -> dict[str, Table | None]:
    """In which table each column stands: in the impressions with these `names`, or in a side table; None if in none.

    A column that is not `optional` counts as one of the impressions then, whose reading will report it.
    """
    found: dict[str, Table | None] = {}
    for column in columns:
        beside: list[Table] = [table for table, other in side.items() if column in other.names]
        if column in names or not (beside or column in optional):
            found[column] = "rows"
        else:
            found[column] = beside[0] if beside else None
    return found


def read_raw(
    con: "DuckDBPyConnection",
    source: LogSource,
    *,
    roles: Roles,
    tables: dict[str, Table | None],
    side: Mapping[Table, SideTable],
    findings: Findings,
    strict: bool = True,
) -> RawRows:
    """Reads impressions and side tables into `con`; with `strict` a side table must know one of them at least."""
    of_rows = [name for name, table in tables.items() if table == "rows"]
    wanted = tuple(dict.fromkeys(n for n in (roles.user, roles.item, roles.time, *of_rows) if n is not None))
    stand_in = wanted[0] if wanted else ABSENT
    columns = _Columns(
        user=roles.user or stand_in,
        item=roles.item or stand_in,
        time=roles.time,
        time_unit=roles.time_unit,
        wanted=wanted,
        roles=roles,
    )
    for beside in side.values():
        beside.find(findings)
    planned: list[Part | None]
    if isinstance(source, pa.Table | pa.RecordBatchReader):
        names, planned = [TABLE], [plan_table(source, columns, findings)]
    else:
        files = find_files(source, findings)
        names, planned = [file.name for file in files], [plan_file(file, columns, findings) for file in files]
    places = {name: number for number, name in enumerate(tables)}
    con.execute(sql.CREATE_RAW)
    cells = [f"t{k} VARCHAR, l{k} VARCHAR[], n{k} DOUBLE" for k in map(places.__getitem__, of_rows)]
    con.execute(f"CREATE TABLE cells ({', '.join([*cells, 'odd VARCHAR'])})")
    parts = Parts()
    known = LogColumns(roles.user or ABSENT, roles.item or ABSENT, roles.time, roles.time_unit)
    for part in planned:
        if part is not None:
            read_part(con, part, parts=parts, columns=known, wanted=wanted, of_rows=of_rows, findings=findings)
    clock = find_clock(con, known)
    numbers = parts.number_columns | {ABSENT}
    apply_rules(con, known, clock=clock, numbers=numbers, places=parts.places, findings=findings)
    found: dict[str, Table] = {name: table for name, table in tables.items() if table is not None}
    raw = RawRows(con, parts, names, roles, clock, places, found)
    if not parts.rows and not findings.fatal:
        fix = "no row can be used" if parts.rejected else "there are no rows"
        findings.add("no_rows", "fatal", fix, offenders=[raw.place])
    if findings.fatal:
        return raw
    joins: list[str] = []
    ids_of: tuple[tuple[Table, Literal["user", "item"]], ...] = (("users", "user"), ("items", "item"))
    for table, ids in ids_of:
        inside = {name: places[name] for name, where in tables.items() if where == table}
        if inside and not side[table].load(con, ids=ids, columns=inside, findings=findings, strict=strict):
            return raw
        joins += [f"LEFT JOIN side_{table} AS {table} ON {table}.id = r.{ids}"] if inside else []
    none = Cell()
    chosen = [
        f"{table}.t{k}, {table}.l{k}, {table}.n{k}"
        if table is not None
        else f"{none.text} AS t{k}, {none.listed} AS l{k}, {none.number} AS n{k}"
        for k, table in enumerate(tables.values())
    ]
    select = ", ".join(["r.rowid AS position", "r.user", "r.item", f"{clock.sql} AS time", *chosen, "rows.odd"])
    con.execute(
        f"CREATE VIEW joined AS SELECT {select} FROM {sql.RAW} AS r JOIN cells AS rows ON rows.rowid = r.rowid "
        + " ".join(joins)
    )
    return replace(raw, joined=True)
