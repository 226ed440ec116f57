"""The CSVs of Tenrec: raw scenarios (QK-video, QB-article, ...) and task files (sbr, ctr, cold, task_0, ...).

Yuan et al., Tenrec: A Large-scale Multipurpose Benchmark Dataset for Recommender Systems, NeurIPS 2022.
Impressions stand in the order of time within a user; there are no times. Missing values are written `\\N`.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources.delimited import (
    engine,
    first_line,
    keep,
    refuse_malformed,
    row_of,
    rows_view,
    scan,
    single,
    table,
)
from peterrec.data.sources.source import Source
from peterrec.errors import DataError, SettingsError, did_you_mean

COLUMNS = ("user_id", "item_id", "click", "gender", "age")  # in every file of the set
ATTRIBUTES = ("gender", "age")
BEHAVIOURS = ("click", "like", "share", "follow", "favorite", "read")
_TIMES = ("time", "timestamp", "ts", "date", "datetime")


def matches(path: str | Path) -> bool:
    """Whether the header of a CSV has Tenrec's columns and no times (which Tenrec lacks)."""
    path = Path(path)
    if not path.is_file() or ".csv" not in path.suffixes:
        return False
    header = first_line(path).split(",")
    return set(COLUMNS) <= set(header) and not set(_TIMES) & set(header)


def load(path: str | Path, *, behaviour: str = "click", work: Path | None = None) -> Source:
    """Rows with a positive `behaviour` as the log, in file order; gender and age of each user of the file.

    0 stands for an unknown gender or age and becomes null, as does a value that differs between rows of one
    user. Raises DataError naming file and line of malformed rows, SettingsError for an absent behaviour.
    """
    path = Path(path)
    header = first_line(path).split(",")
    if missing := [name for name in COLUMNS[:2] if name not in header]:
        raise DataError(f"{path}: not a Tenrec file: no column {missing[0]!r}. {did_you_mean(missing[0], header)}")
    if behaviour not in header:
        known = [name for name in BEHAVIOURS if name in header]
        raise SettingsError(f"{path}: no behaviour {behaviour!r} in this file. {did_you_mean(behaviour, known)}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}: line 1: a column name stands twice in the header.")
    with engine() as con:
        rows = scan(path, header, delimiter=",", header=True, null=r"\N")
        con.execute(f"CREATE VIEW impressions AS SELECT {_fields(header, behaviour)} FROM {rows}")
        users, total, note = _users(con, path, header, behaviour)
        log = keep(con, 'SELECT "user", item FROM impressions WHERE happened', work=work, name="log")
        positive = rows_view(log, con, view="log")
    if not positive:
        raise DataError(f"{path}: no row of {total} has {behaviour} = 1: there is nothing to learn from.")
    summary = f"Tenrec: {positive} of {total} rows have {behaviour} = 1; no times, file order"
    return Source("tenrec", log, LogColumns(time=None), users, note="; ".join([summary, *note]) + ".")


def _fields(header: Sequence[str], behaviour: str) -> str:
    attributes = "".join(f", nullif({_whole(name)}, '0') AS {name}" for name in ATTRIBUTES if name in header)
    return (
        f'{_whole("user_id")} AS "user", {_whole("item_id")} AS item, '
        f"CASE {_whole(behaviour)} WHEN '1' THEN true WHEN '0' THEN false END AS happened{attributes}"
    )


def _whole(column: str) -> str:
    # the published files went through pandas: one and the same number is `7` in one file and `7.0` in another
    name = f"""nullif("{column}", '')"""
    return f"CASE WHEN ends_with({name}, '.0') THEN left({name}, -2) ELSE {name} END"


def _users(
    con: duckdb.DuckDBPyConnection, path: Path, header: Sequence[str], behaviour: str
) -> tuple[pa.Table | None, int, list[str]]:
    """One pass over every row: attributes a user, number of rows, and what was left out."""
    found = [name for name in ATTRIBUTES if name in header]
    spans = "".join(f", min({name}) AS least_{name}, max({name}) AS most_{name}" for name in found)
    con.execute(
        f"""CREATE TEMP TABLE people AS SELECT "user", count(*) AS seen,
            count(*) FILTER (item IS NULL OR happened IS NULL OR "user" IS NULL) AS bad{spans}
        FROM impressions GROUP BY "user" """
    )
    total, bad = (int(number or 0) for number in single(con, "SELECT sum(seen), sum(bad) FROM people"))

    def is_bad(line: str) -> bool:
        fields = row_of(line, header, ",")
        return (
            fields is None
            or any(fields[name] in ("", r"\N") for name in COLUMNS[:2])
            or fields[behaviour].removesuffix(".0") not in ("0", "1")
        )

    expected = f"{len(header)} fields, a user, an item, and {behaviour} 0 or 1"
    refuse_malformed(con, path, bad_values=bad, is_bad=is_bad, expected=expected, header=True)
    if not total:
        raise DataError(f"{path}: there are no rows after the header.")
    if not found:
        return None, total, []
    agreed = "".join(f", CASE WHEN least_{name} = most_{name} THEN least_{name} END AS {name}" for name in found)
    known = " OR ".join(f"least_{name} IS NOT NULL" for name in found)
    people = table(con, f'SELECT "user"{agreed} FROM people WHERE {known} ORDER BY length("user"), "user"')
    return people, total, _conflicts(con, found)


def _conflicts(con: duckdb.DuckDBPyConnection, found: Sequence[str]) -> list[str]:
    notes = []
    for name in found:
        differ = f'SELECT count(*), min("user") FROM people WHERE least_{name} <> most_{name}'
        users, example = single(con, differ)
        if users:
            notes.append(f"{name}: {users} users have different values in different rows (one is {example}), left out")
    return notes
