"""Text files of PeterRec and Conure: one user a line, `a,b,c`, padded `0,0,a,b`, with targets `a,b,c,,t1,t2`.

There are no user ids and no times: users are called by their line (1, 2, ...), and items stand in order.
"""

import re
from pathlib import Path

import duckdb

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources.delimited import (
    count,
    engine,
    first_lines,
    keep,
    quoted,
    refuse_malformed,
    scan,
    single,
    table,
)
from peterrec.data.sources.source import Source
from peterrec.errors import DataError

PAD = "0"
SUFFIXES = (".csv", ".txt", ".dat")
_TOKEN = r"\s*[^,\s]+\s*"
_ROW = f"({_TOKEN}(,{_TOKEN})*)?(,,{_TOKEN}(,{_TOKEN})*)?"
_INTEGERS = re.compile(r"\d+(,\d+)*(,,\d+(,\d+)*)?")


def matches(path: str | Path) -> bool:
    """Whether the first lines of a text file look like sequences of item numbers without a header.

    Three or four numbers in every line are taken for a log without a header, which this is not.
    """
    path = Path(path)
    if not path.is_file() or not set(path.suffixes) & set(SUFFIXES):
        return False
    lines = first_lines(path, limit=50)
    if not lines or not all(_INTEGERS.fullmatch(line) for line in lines):
        return False
    widths = {line.count(",") + 1 for line in lines}
    return any(",," in line for line in lines) or len(widths) > 1 or widths.pop() > 4


def load(path: str | Path, *, work: Path | None = None) -> Source:
    """The items before `,,` as the log; one target a line as the user's attribute `label`, more as `targets`.

    Pads (0) are left out. Raises DataError naming file and line of malformed lines.
    """
    path = Path(path)
    with engine() as con:
        _lines_view(con, path)
        lines, labelled, several = _survey(con, path)
        log = keep(con, _exploded("source", PAD), work=work, name="log")
        note = [f"PeterRec text: {lines} users, called by their line; no times, file order"]
        users = targets = None
        if labelled and several:
            targets = keep(con, _exploded("target", PAD), work=work, name="targets")
            note.append(f"{labelled} of them with target interactions")
        elif labelled:
            users = table(con, 'SELECT "user", trim(target) AS label FROM lines WHERE target IS NOT NULL')
            note.append("the single target of each line is its label")
    return Source("peterrec_text", log, LogColumns(time=None), users, targets=targets, note="; ".join(note) + ".")


def _lines_view(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    # a separator that cannot occur makes one column of each line; blank lines stay, so that numbers are true
    text = scan(path, ("line",), delimiter="\x1f")
    con.execute(
        f"""CREATE VIEW lines AS SELECT CAST(number AS VARCHAR) AS "user", line,
            split_part(line, ',,', 1) AS source, nullif(split_part(line, ',,', 2), '') AS target
        FROM (SELECT row_number() OVER () AS number, line FROM {text})"""
    )


def _survey(con: duckdb.DuckDBPyConnection, path: Path) -> tuple[int, int, bool]:
    """Users, users with targets, and whether some have several; refuses malformed lines."""
    lines, labelled, commas, malformed = single(
        con,
        f"""SELECT count(line), count(target), max(length(target) - length(replace(target, ',', ''))),
            count(*) FILTER (NOT regexp_full_match(line, {quoted(_ROW)})) FROM lines""",
    )
    expected = "items separated by commas, then, for fine-tuning, two commas and the targets"
    pattern = re.compile(_ROW)
    refuse_malformed(
        con, path, bad_values=malformed, is_bad=lambda line: not pattern.fullmatch(line), expected=expected
    )
    if not lines:
        raise DataError(f"{path}: there are no sequences in this file. Expected {expected}.")
    if 0 < labelled < lines:
        first = count(con, 'SELECT min(CAST("user" AS BIGINT)) FROM lines WHERE line IS NOT NULL AND target IS NULL')
        raise DataError(
            f"{path}: {lines - labelled} of {lines} lines have no targets after two commas, the first is "
            f"line {first}; keep lines with and without targets in two files."
        )
    return int(lines), int(labelled), bool(commas)


def _exploded(column: str, pad: str) -> str:
    return (
        f"""SELECT "user", item FROM (SELECT "user", trim(unnest(string_split({column}, ','))) AS item """
        "FROM lines "
        f"WHERE {column} IS NOT NULL) WHERE item NOT IN ('', {quoted(pad)})"
    )
