"""Writing impressions as arrays, one file each, from the sound rows in a database."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.data.impressions import NOTE
from peterrec.data.impressions.cells import members
from peterrec.data.impressions.impressions import FORMAT, FORMAT_VERSION, HISTORIES, VALUES, VOCABULARY
from peterrec.data.impressions.reader import RawRows
from peterrec.data.impressions.row_rules import label_value
from peterrec.data.impressions.schema import LabelRule, Schema
from peterrec.data.numbering import one_row
from peterrec.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_AT_ONCE = 1 << 17  # rows of a record batch
_COLUMNS_AT_ONCE = 8  # value lists that one query joins
_IDS = pa.schema([("id", pa.string())])
_LISTED = pa.schema([("field", pa.string()), ("values", pa.list_(pa.string()))])


def write_arrays(raw: RawRows, folder: Path, *, schema: Schema) -> dict[str, Any]:
    """Writes the table `sound`, but for what belongs to a history, and makes `people` (name, number).

    Returns a summary.
    """
    con = raw.con
    (rows,) = one_row(con, "SELECT count(*) FROM sound")
    _number_ids(con, "user", table="people", given=schema.user is not None, path=folder / "users.parquet")
    _number_ids(con, "item", table="things", given=schema.item is not None, path=folder / "items.parquet")
    domains = pa.table({"value": pa.array(schema.domains, pa.string()), "code": np.arange(len(schema.domains))})
    con.register("_domains", domains)
    con.execute("CREATE TABLE domains AS SELECT value, code FROM _domains")
    con.unregister("_domains")
    domain = "NULL::VARCHAR" if schema.domain is None else raw.text(schema.domain.name)
    scalars: dict[str, tuple[str, type]] = {
        "position": ("s.position", np.int64),
        "user": ("coalesce(p.number, -1)" if schema.user else "-1", np.int64),
        "item": ("coalesce(i.number, -1)" if schema.item else "-1", np.int64),
        "domain": ("coalesce(d.code, -1)", np.int64),
    }
    if schema.time is not None:
        scalars["time"] = "s.time", np.int64
    if schema.weight is not None:
        scalars["weight"] = raw.number(schema.weight.name), np.float32
    joined = f"""sound AS s LEFT JOIN people AS p ON p.name = s.user LEFT JOIN things AS i ON i.name = s.item
        LEFT JOIN domains AS d ON d.value = {domain}"""
    for name, (sql, kind) in scalars.items():
        write_column(con, f"SELECT {sql} AS v FROM {joined} ORDER BY s.position", folder / f"{name}.npy", rows, kind)
    labels = _matrix(folder / "labels.npy", (len(schema.rules), rows), np.float32)
    values = [label_value(raw, rule) for rule in schema.rules]
    _fill(con, values, joined="sound AS s", into=labels.T)
    numeric = schema.of_kind("numeric")
    matrix = _matrix(folder / "numeric.npy", (rows, len(numeric)), np.float32)
    _fill(con, [raw.number(name) for name in numeric], joined="sound AS s", into=matrix)
    listed = _write_categories(raw, schema.of_kind("categorical"), folder=folder, rows=rows)
    listed |= _write_lists(raw, schema.of_kind("multi"), folder=folder, rows=rows)
    with pq.ParquetWriter(folder / VALUES, _LISTED, compression="zstd") as writer:
        for name, known in listed.items():
            column = pa.ListArray.from_arrays(pa.array([0, len(known)], pa.int32()), known)
            writer.write_table(pa.table([pa.array([name]), column], schema=_LISTED))
    users, items = one_row(con, "SELECT (SELECT count(*) FROM people), (SELECT count(*) FROM things)")
    return {
        "rows": rows,
        "users": users if schema.user else None,
        "items": items if schema.item else None,
        "labels": {rule.name: _described(raw, rule) for rule in schema.rules},
        "domains": _domain_sizes(con, domain, schema),
        "fields": _described_fields(raw, schema, {name: len(known) for name, known in listed.items()}),
    }


def write_note(folder: Path, *, schema: Schema, summary: dict[str, Any], vocabulary: Vocabulary | None) -> str:
    """Writes what makes the folder one of impressions; returns the fingerprint (SHA-256, hex) of all that it holds."""
    digest = hashlib.sha256(schema.to_json().encode())
    if vocabulary is not None:
        vocabulary.save(folder / VOCABULARY)
        state = json.loads((folder / HISTORIES / "state.json").read_text(encoding="utf-8"))
        digest.update(f"{vocabulary.fingerprint} {state['_fingerprint']}".encode())
    for path in sorted([*folder.glob("*.npy"), *folder.glob("*s.parquet")]):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()} ".encode())
    note = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fingerprint": digest.hexdigest(),
        "rows": summary["rows"],
        "history": vocabulary is not None,
        "schema": json.loads(schema.to_json()),
        "summary": summary,
    }
    (folder / NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return digest.hexdigest()


def write_column(con: "DuckDBPyConnection", query: str, path: Path, rows: int, kind: type) -> None:
    """Writes the one column of `query` (rows,) as an array of `kind`, null as NaN."""
    values = _matrix(path, (rows,), kind)
    filled_to = 0
    for batch in con.sql(query).to_arrow_reader(_AT_ONCE):
        values[filled_to : filled_to + len(batch)] = batch.column(0).to_numpy(zero_copy_only=False)
        filled_to += len(batch)
    assert filled_to == rows, f"{path.name}: {filled_to} of {rows} rows"
    values.flush()


def _number_ids(con: "DuckDBPyConnection", role: str, *, table: str, given: bool, path: Path) -> None:
    """Makes `table` (name, number) of the users or items, by id, and writes the ids."""
    con.execute(f"""CREATE TABLE {table} AS SELECT name, (row_number() OVER (ORDER BY name) - 1)::BIGINT AS number
        FROM (SELECT DISTINCT {role} AS name FROM sound WHERE {"true" if given else "false"})""")
    with pq.ParquetWriter(path, _IDS, compression="zstd") as writer:
        for batch in con.sql(f"SELECT name AS id FROM {table} ORDER BY number").to_arrow_reader(_AT_ONCE):
            writer.write_batch(batch.cast(_IDS))


def _write_categories(raw: RawRows, names: Sequence[str], *, folder: Path, rows: int) -> dict[str, pa.Array]:
    """`categorical.npy` (rows, Fc): codes from 1 in the order of the values' text, 0 where missing."""
    matrix = _matrix(folder / "categorical.npy", (rows, len(names)), np.int32)
    listed: dict[str, pa.Array] = {}
    for first in range(0, len(names), _COLUMNS_AT_ONCE):
        some = names[first : first + _COLUMNS_AT_ONCE]
        joined = "sound AS s"
        for place, name in enumerate(some):
            value = raw.text(name)
            listed[name] = _make_values(raw.con, f"SELECT {value} AS value FROM sound", place)
            joined += f" LEFT JOIN values_{place} AS v{place} ON v{place}.value = s.{value}"
        codes = [f"coalesce(v{place}.code, 0)" for place in range(len(some))]
        _fill(raw.con, codes, joined=joined, into=matrix[:, first : first + len(some)])
    matrix.flush()
    return listed


def _write_lists(raw: RawRows, names: Sequence[str], *, folder: Path, rows: int) -> dict[str, pa.Array]:
    """`multi_<k>_codes.npy` (n,), codes from 1 in the order of the values' text, and `…_offsets.npy` (rows + 1,)."""
    listed: dict[str, pa.Array] = {}
    for place, name in enumerate(names):
        several = members(raw.text(name), raw.listed(name))
        raw.con.execute(f"CREATE OR REPLACE TABLE bags AS SELECT position, {several} AS bag FROM sound")
        raw.con.execute("""CREATE OR REPLACE VIEW members AS
            SELECT position, unnest(bag) AS value, unnest(range(len(bag))) AS place FROM bags""")
        listed[name] = _make_values(raw.con, "SELECT value FROM members", 0)
        (total,) = one_row(raw.con, "SELECT coalesce(sum(len(bag)), 0)::BIGINT FROM bags")
        query = "SELECT code AS v FROM members JOIN values_0 USING (value) ORDER BY position, place"
        write_column(raw.con, query, folder / f"multi_{place}_codes.npy", total, np.int32)
        offsets = _matrix(folder / f"multi_{place}_offsets.npy", (rows + 1,), np.int64)
        query = "SELECT coalesce(len(bag), 0) AS v FROM bags ORDER BY position"
        np.cumsum(raw.con.sql(query).to_arrow_table()["v"].to_numpy(), out=offsets[1:])
        offsets.flush()
    return listed


def _make_values(con: "DuckDBPyConnection", query: str, place: int) -> pa.Array:
    """Makes `values_<place>` (value, code) of the different values of `query`, and returns them in order."""
    con.execute(f"""CREATE OR REPLACE TABLE values_{place} AS
        SELECT value, row_number() OVER (ORDER BY value)::INTEGER AS code
        FROM (SELECT DISTINCT value FROM ({query}) WHERE value IS NOT NULL)""")
    found = con.sql(f"SELECT value FROM values_{place} ORDER BY code").to_arrow_table()["value"]
    return pa.concat_arrays([pa.array([], pa.string()), *found.cast(pa.string()).chunks])


def _fill(con: "DuckDBPyConnection", columns: Sequence[str], *, joined: str, into: NDArray[Any]) -> None:
    """The `columns` of the sound rows, in order, into those of an array (rows, n); null becomes NaN."""
    if not columns:
        return
    chosen = ", ".join(f"{column} AS v{place}" for place, column in enumerate(columns))
    filled_to = 0
    for batch in con.sql(f"SELECT {chosen} FROM {joined} ORDER BY s.position").to_arrow_reader(_AT_ONCE):
        for place, values in enumerate(batch.columns):
            into[filled_to : filled_to + len(batch), place] = values.to_numpy(zero_copy_only=False)
        filled_to += len(batch)
    assert filled_to == len(into)


def _matrix(path: Path, shape: tuple[int, ...], kind: type) -> "np.memmap[Any, Any]":
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)


def _described(raw: RawRows, rule: LabelRule) -> dict[str, Any]:
    value = label_value(raw, rule)
    known, mean, total = one_row(raw.con, f"SELECT count({value}), avg({value}), count(*) FROM sound")
    return {"rows": known, "mean": mean, "missing": total - known}


def _domain_sizes(con: "DuckDBPyConnection", domain: str, schema: Schema) -> dict[str, int]:
    if schema.domain is None:
        return {}
    found = dict(con.execute(f"SELECT {domain} AS d, count(*) FROM sound GROUP BY d").fetchall())
    return {name: found.get(name, 0) for name in schema.domains}


def _described_fields(raw: RawRows, schema: Schema, sizes: dict[str, int]) -> list[dict[str, Any]]:
    cells = [raw.number(f.name) if f.kind == "numeric" else raw.text(f.name) for f in schema.fields]
    tests = [
        f"count(*) FILTER ({cell} IS NULL AND coalesce(len({raw.listed(field.name)}), 0) = 0)"
        for cell, field in zip(cells, schema.fields, strict=True)
    ]
    missing = one_row(raw.con, f"SELECT {', '.join(tests)} FROM sound") if tests else ()
    return [
        {"name": field.name, "kind": field.kind, "missing": count, "values": sizes.get(field.name)}
        for field, count in zip(schema.fields, missing, strict=True)
    ]


def domain_values(raw: RawRows, column: str) -> tuple[str, ...]:
    """The different values of the domain's column: numbers by size, then other text."""
    value = raw.text(column)
    query = f"SELECT {value} AS d FROM sound WHERE {value} IS NOT NULL GROUP BY d ORDER BY min({raw.number(column)}), d"
    return tuple(found for (found,) in raw.con.execute(query).fetchall())


def write_before(con: "DuckDBPyConnection", folder: Path) -> None:
    """`before.npy` and `item_row.npy` (rows,) of the table `seen`."""
    (rows,) = one_row(con, "SELECT count(*) FROM seen")
    for name, kind in (("before", np.int64), ("item_row", np.int32)):
        write_column(con, f"SELECT {name} AS v FROM seen ORDER BY position", folder / f"{name}.npy", rows, kind)
