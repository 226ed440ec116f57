"""Delimited text read by DuckDB in one streamed pass; malformed rows are named by file and line."""

import gzip
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import duckdb
import pyarrow as pa

from peterrec.atomic import atomic_file
from peterrec.data.sources.source import Rows
from peterrec.errors import DataError

MEMORY_LIMIT = "2GB"
_LONGEST_LINE = 16 * 1024 * 1024  # bytes; one user's whole history can be one line


@contextmanager
def engine() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB connection that keeps the order of the rows and spills to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="peterrec-") as spill, duckdb.connect() as con:
        con.execute("SET preserve_insertion_order = true")
        con.execute("SET python_enable_replacements = false")  # names in SQL never mean Python variables
        con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        con.execute(f"SET temp_directory = {quoted(spill)}")
        yield con


def quoted(text: object) -> str:
    """`text` as a SQL string."""
    return "'" + str(text).replace("'", "''") + "'"


def scan(
    path: Path,
    columns: Sequence[str],
    *,
    delimiter: str,
    header: bool = False,
    quote: str = "",
    encoding: str = "utf-8",
    null: str = "",
) -> str:
    """The SQL of a table function over `path`: all columns text, rows that do not fit counted as rejects."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    types = ", ".join(f"{quoted(name)}: 'VARCHAR'" for name in columns)
    return (
        f"read_csv({quoted(_literal(path))}, columns = {{{types}}}, delim = {quoted(delimiter)}, "
        f"header = {header}, "
        f"quote = {quoted(quote)}, escape = {quoted(quote)}, encoding = {quoted(encoding)}, "
        f"nullstr = {quoted(null)}, auto_detect = false, store_rejects = true, "
        f"max_line_size = {_LONGEST_LINE}, buffer_size = {2 * _LONGEST_LINE})"
    )


def table(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """The result of a query in memory."""
    return con.sql(query).to_arrow_table()


def keep(con: duckdb.DuckDBPyConnection, query: str, *, work: Path | None, name: str) -> Rows:
    """The rows of a query: in `work/<name>.parquet`, streamed, or in memory without `work`."""
    if work is None:
        return table(con, query)
    with atomic_file(work / f"{name}.parquet") as temporary:
        con.execute(f"COPY ({query}) TO {quoted(temporary)} (FORMAT parquet, COMPRESSION zstd)")
    return (work / f"{name}.parquet",)


def rows_view(rows: Rows, con: duckdb.DuckDBPyConnection, *, view: str) -> int:
    """Make `rows` a view of that name and count them."""
    if isinstance(rows, pa.Table):
        con.register(view, rows)
    else:
        files = ", ".join(quoted(_literal(path)) for path in rows)
        con.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM read_parquet([{files}])")
    return count(con, f"SELECT count(*) FROM {view}")


def single(con: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The only row of a query, read to its end (rejects are known, and the connection free, only then)."""
    (row,) = con.sql(query).fetchall()
    return row


def count(con: duckdb.DuckDBPyConnection, query: str) -> int:
    """The single number of a query."""
    return int(single(con, query)[0] or 0)


def refuse_malformed(
    con: duckdb.DuckDBPyConnection,
    path: Path,
    *,
    bad_values: int,
    is_bad: Callable[[str], bool],
    expected: str,
    encoding: str = "utf-8",
    header: bool = False,
) -> None:
    """Raise DataError with the first lines at fault if rows were rejected or `bad_values` were found.

    The engine only counts; the lines are looked up here, in a file that cannot be used anyway.
    """
    rejected = count(con, "SELECT count(DISTINCT line) FROM reject_errors")
    if not rejected and not bad_values:
        return
    with open_bytes(path) as lines:
        bad: Iterator[tuple[int, bytes]] = (
            (number, line)
            for number, line in enumerate(lines, start=1)
            if line.strip() and number > header and _is_bad(line, encoding, is_bad)
        )
        examples = [
            f"line {number}: {line.decode(encoding, errors='replace').rstrip()[:80]!r}"
            for number, line in itertools.islice(bad, 3)
        ]
    raise DataError(
        f"{path}: {rejected + bad_values} malformed rows; {'; '.join(examples)}. Expected {expected}; "
        "mend these rows or take the file from its source again."
    )


def open_bytes(path: Path) -> IO[bytes]:
    """A text file as bytes, unzipped if it ends in `.gz`."""
    try:
        return cast(IO[bytes], gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}.") from None


def first_line(path: Path) -> str:
    """The first line, without a byte-order mark; empty where the file is not text."""
    with open_bytes(path) as lines:
        return _text(lines.readline(1 << 20)).rstrip("\r\n")


def first_lines(path: Path, *, limit: int) -> list[str]:
    """The first `limit` lines that are not blank; none if the file is not UTF-8 text."""
    with open_bytes(path) as lines:
        some = [_text(line).strip() for line in itertools.islice(lines, limit)]
    return [line for line in some if line]


def encoding_of(path: Path) -> str:
    """`utf-8`, or `latin-1` where the bytes are not UTF-8 (MovieLens changed over the years)."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "latin-1"
    return "utf-8"


def row_of(line: str, columns: Sequence[str], delimiter: str) -> Mapping[str, str] | None:
    """The fields of a line by column; None if their number is wrong."""
    fields = line.split(delimiter)
    return dict(zip(columns, fields, strict=True)) if len(fields) == len(columns) else None


def _literal(path: Path) -> str:
    return re.sub(r"([*?\[])", r"[\1]", str(path))  # DuckDB would take these for patterns


def _is_bad(line: bytes, encoding: str, is_bad: Callable[[str], bool]) -> bool:
    try:
        return is_bad(line.decode(encoding).rstrip("\r\n"))
    except UnicodeDecodeError:
        return True


def _text(line: bytes) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return ""
