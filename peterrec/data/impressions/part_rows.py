"""Reading one file of impressions: its events, as of any log, and the cells beside them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from peterrec.data.impressions.cells import Cell, json_cell, typed_cell
from peterrec.data.logs import sql
from peterrec.data.logs.columns import LogColumns, TimeKind
from peterrec.data.logs.parts import Part, Parts
from peterrec.data.logs.problems import Findings, Offender

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ABSENT = "(none)"  # stands for a user or item column that there is not


def read_part(
    con: "DuckDBPyConnection",
    part: Part,
    *,
    parts: Parts,
    columns: LogColumns,
    wanted: Sequence[str],
    of_rows: Sequence[str],
    findings: Findings,
) -> None:
    """Reads a file once, as it is; from that its events, as of any log, and its cells, row for row."""
    of_json = part.text is not None and part.text.separator is None
    if of_json:
        select = "line"
    elif part.text is not None:
        select = ", ".join(f"c{part.names.index(name)} AS w{k}" for k, name in enumerate(wanted))
    else:
        select = ", ".join(f"{sql.identifier(name)} AS w{k}" for k, name in enumerate(wanted))
    select = select or "1 AS w0"
    parts.add(con, part, findings, statement=f"CREATE TABLE part AS SELECT {select} FROM {part.relation}")
    if part not in parts.read:
        return
    found = con.execute("SELECT column_name, column_type FROM (DESCRIBE part)").fetchall()
    kinds: dict[str, str] = dict(found)
    value = {name: f"w{k}" for k, name in enumerate(wanted)} | {ABSENT: "'0'"}
    if of_json:
        query = sql.json_lines("part", columns)
    elif part.text is not None:
        query = sql.delimited("part", columns, names=value, separator=part.text.separator or ",")
    else:
        named = {name: value[name] for name in (columns.user, columns.item, columns.time) if name is not None}
        inner = ", ".join(f"{column} AS {sql.identifier(name)}" for name, column in named.items())
        time = None if columns.time is None else _time_kind(kinds[value[columns.time]])
        query = sql.typed(f"(SELECT {inner} FROM part)", columns, time=time)
    user, item = ("'0'" if name == ABSENT else role for role, name in (("u", columns.user), ("i", columns.item)))
    con.execute(
        f"INSERT INTO {sql.RAW} SELECT {user}, {item}, ticks, micros, rule, col, val "
        f"FROM ({query}) AS q(u, i, ticks, micros, rule, col, val)"
    )
    cells: list[str] = []
    odd = "NULL::VARCHAR"
    if of_json and of_rows:
        both = {name: json_cell("line", name) for name in of_rows}
        cells = [column for cell, _ in both.values() for column in cell]
        odd = "CASE " + " ".join(f"WHEN {bad} THEN {sql.text(name)}" for name, (_, bad) in both.items()) + " END"
    elif not of_json:
        for name in of_rows:
            kind = kinds[value[name]]
            cell = typed_cell(value[name], kind)
            if cell is None:
                fix = f"the column holds {kind}, but fields are numbers, text, or lists of them; leave it out"
                findings.add("field_type", "fatal", fix, column=name, offenders=[Offender(part.name)])
            cells += cell or Cell()
    cells.append(odd)
    if of_json:  # a line that is no object has no cells; it is a bad row
        cells = [f"CASE WHEN good THEN {cell} END" for cell in cells]
    lines = f"({sql.json_objects('part')})" if of_json else "part"
    con.execute(f"INSERT INTO cells SELECT {', '.join(cells)} FROM {lines}")
    con.execute("DROP TABLE part")


def _time_kind(kind: str) -> TimeKind:
    """What the engine's type of a time column means to the SQL of times; other types were refused before."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "timestamp"
    if kind in ("FLOAT", "DOUBLE"):
        return "float"
    return "text" if kind == "VARCHAR" or kind.startswith("ENUM") else "integer"
