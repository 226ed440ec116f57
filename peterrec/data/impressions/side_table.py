"""Tables of users and of items whose columns are fields of the impressions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from peterrec.data.impressions.cells import typed_cell
from peterrec.data.impressions.schema import Table
from peterrec.data.logs.column_names import column_names
from peterrec.data.logs.files import find_files
from peterrec.data.logs.labels import read_labels
from peterrec.data.logs.plans import TABLE
from peterrec.data.logs.problems import CheckReport, Findings, Offender
from peterrec.data.logs.sql import RAW, identifier
from peterrec.data.numbering import one_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def side_tables(
    *,
    users: Path | pa.Table | None = None,
    users_column: str = "user",
    items: Path | pa.Table | None = None,
    items_column: str = "item",
) -> dict[Table, "SideTable"]:
    """The tables that there are; the ids of items stand in `items_column`, or else in `item`."""
    side: dict[Table, SideTable] = {}
    if users is not None:
        side["users"] = SideTable(users, users_column)
    if items is not None:
        names = SideTable(items, "").names
        side["items"] = SideTable(items, "item" if items_column not in names and "item" in names else items_column)
    return side


@dataclass
class SideTable:
    """A file of any format that a log may have, or rows in Arrow, whose ids stand in `column`; `report` once read."""

    source: Path | pa.Table
    column: str
    report: CheckReport | None = field(default=None, init=False)

    @property
    def names(self) -> list[str]:
        """Its columns other than the ids; none where it cannot be read, which reading it will report."""
        known = column_names(self.source) if isinstance(self.source, Path) else self.source.column_names
        return [name for name in known if name != self.column]

    def find(self, findings: Findings) -> None:
        """Notes a fatal problem where there is no such file."""
        if isinstance(self.source, Path):
            find_files(self.source, findings)

    def load(
        self,
        con: "DuckDBPyConnection",
        *,
        ids: Literal["user", "item"],
        columns: dict[str, int],
        findings: Findings,
        strict: bool,
    ) -> bool:
        """Makes `side_users` or `side_items`: id, and t<k>, l<k>, n<k> of each column of number k.

        Returns False, with a fatal problem here or in `report`, where that cannot be: with `strict` also where it knows
        none of the impressions' ids.
        """
        table = f"{ids}s"
        known = con.sql(f"SELECT DISTINCT {ids} FROM {RAW} WHERE {ids} IS NOT NULL").to_arrow_table()[ids]
        found, self.report = read_labels(
            self.source, user=self.column, known_users=known if ids == "user" and strict else None, noun=ids
        )
        if self.report.fatal:
            return False
        name = TABLE if isinstance(self.source, pa.Table) else str(self.source)
        con.register("_side", found)
        kinds = dict(con.execute("SELECT column_name, column_type FROM (DESCRIBE _side)").fetchall())
        chosen = ["user AS id"]
        for column, place in columns.items():
            cell = typed_cell(identifier(column), kinds[column])
            if cell is None:
                fix = f"the column holds {kinds[column]}, but fields are numbers, text, or lists of them; leave it out"
                findings.add("field_type", "fatal", fix, column=column, offenders=[Offender(name)])
                return False
            chosen += [f"{cell.text} AS t{place}", f"{cell.listed} AS l{place}", f"{cell.number} AS n{place}"]
        con.execute(f"CREATE TABLE side_{table} AS SELECT {', '.join(chosen)} FROM _side")
        con.unregister("_side")
        con.register("_known", pa.table({"id": known}))
        matched = one_row(con, f"SELECT count(*) FROM _known SEMI JOIN side_{table} USING (id)")[0]
        con.unregister("_known")
        if strict and not matched and len(known):
            example = Offender(name, None, one_row(con, f"SELECT min(id) FROM side_{table}")[0])
            fix = f"none of these {table} is among the impressions, whose ids are written as {known[0].as_py()!r}"
            findings.add("no_known_id", "fatal", fix, column=self.column, offenders=[example])
            return False
        if matched < len(known):
            fix = f"{len(known) - matched:,} of {len(known):,} {table} of the impressions are not in this table; its "
            fix += "fields count as missing there"
            findings.add("unlisted_id", "note", fix, column=self.column, offenders=[Offender(name)])
        return True
