"""MovieLens folders: 100k, 1M and 10M (`.data`, `.dat`), 20M, 25M, 32M and latest (`.csv`).

F. Maxwell Harper and Joseph A. Konstan, The MovieLens Datasets, ACM TiiS 5(4), 2015.
"""

import csv
import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources.delimited import (
    count,
    encoding_of,
    engine,
    first_line,
    keep,
    refuse_malformed,
    row_of,
    rows_view,
    scan,
    table,
)
from peterrec.data.sources.source import Rows, Source
from peterrec.errors import DataError

RATING = ("user", "item", "rating", "time")
USER_100K = ("user", "age", "gender", "occupation", "zip")
USER_1M = ("user", "gender", "age", "occupation", "zip")
CSV_HEADER = "userId,movieId,rating,timestamp"
GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]


def matches(path: str | Path) -> bool:
    """Whether `path` is a MovieLens folder, or the `u.data` or `ratings.dat` in one."""
    return _layout(_folder(Path(path))) is not None


def load(path: str | Path, *, work: Path | None = None) -> Source:
    """Ratings in file order, users (100k and 1M have them) and items; `work` takes the converted ratings.

    Raises DataError naming file and line of malformed rows.
    """
    folder = _folder(Path(path))
    layout = _layout(folder)
    if layout is None:
        raise DataError(f"{path}: not a MovieLens folder (it has neither u.data, ratings.dat nor ratings.csv).")
    with engine() as con:
        return layout(con, folder, work)


def _folder(path: Path) -> Path:
    return path.parent if path.name in ("u.data", "ratings.dat") else path


def _layout(folder: Path) -> Callable[[duckdb.DuckDBPyConnection, Path, Path | None], Source] | None:
    if (folder / "u.data").is_file():
        return _load_100k
    if (folder / "ratings.dat").is_file():
        return _load_dat
    if (folder / "ratings.csv").is_file() and first_line(folder / "ratings.csv") == CSV_HEADER:
        return _load_csv
    return None


def _load_100k(con: duckdb.DuckDBPyConnection, folder: Path, work: Path | None) -> Source:
    log = _ratings(con, folder / "u.data", delimiter="\t", work=work)
    users = _side(con, folder / "u.user", USER_100K, delimiter="|")
    flags = [f"flag{number}" for number in range(len(GENRES_100K))]
    genres = ", ".join(
        f"CASE WHEN {flag} = '1' THEN {_sql(genre)} END" for flag, genre in zip(flags, GENRES_100K, strict=True)
    )
    items = _side(
        con,
        folder / "u.item",
        ("item", "title", "released", "video_released", "url", *flags),
        delimiter="|",
        select=f"item, title, concat_ws('|', {genres}) AS genres",
    )
    return Source(
        "movielens",
        log,
        LogColumns(),
        users,
        items=items,
        note="MovieLens 100k; age in years; every rating is an event.",
    )


def _load_dat(con: duckdb.DuckDBPyConnection, folder: Path, work: Path | None) -> Source:
    log = _ratings(con, folder / "ratings.dat", delimiter="::", work=work)
    users = _side(con, folder / "users.dat", USER_1M, delimiter="::")
    items = _side(con, folder / "movies.dat", ("item", "title", "genres"), delimiter="::")
    ages = " age is the lower end of an age group, 1 for under 18;" if users is not None else ""
    return Source(
        "movielens",
        log,
        LogColumns(),
        users,
        items=items,
        note=f"MovieLens (.dat);{ages} every rating is an event.",
    )


def _load_csv(con: duckdb.DuckDBPyConnection, folder: Path, work: Path | None) -> Source:
    # an ordinary CSV with a header: the log reader takes it as it is, and names its lines
    columns = LogColumns(user="userId", item="movieId", time="timestamp")
    note = "MovieLens (.csv); no attributes of users; every rating is an event."
    return Source("movielens", (folder / "ratings.csv",), columns, items=_movies(folder, item=columns.item), note=note)


def _ratings(con: duckdb.DuckDBPyConnection, path: Path, *, delimiter: str, work: Path | None) -> Rows:
    query = (
        'SELECT "user", item, TRY_CAST(rating AS DOUBLE) AS rating, '
        "CASE WHEN regexp_full_match(time, '-?[0-9]+') THEN TRY_CAST(time AS BIGINT) END AS time "
        f"FROM {scan(path, RATING, delimiter=delimiter)}"
    )
    log = keep(con, query, work=work, name="ratings")
    total = rows_view(log, con, view="ratings")
    bad = count(
        con,
        'SELECT count(*) FROM ratings WHERE "user" IS NULL OR item IS NULL OR rating IS NULL OR time IS NULL',
    )

    def is_bad(line: str) -> bool:
        row = row_of(line, RATING, delimiter)
        return (
            row is None
            or not (row["user"] and row["item"])
            or not re.fullmatch(r"-?[0-9]{1,18}", row["time"])
            or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", row["rating"])
        )

    expected = f"{delimiter.join(RATING)!r}, the time a whole number of seconds"
    try:
        refuse_malformed(con, path, bad_values=bad, is_bad=is_bad, expected=expected)
        if not total:
            raise DataError(f"{path}: there are no ratings in this file. Expected {expected}.")
    except DataError:
        if not isinstance(log, pa.Table):
            for file in log:
                file.unlink()
        raise
    return log


def _side(
    con: duckdb.DuckDBPyConnection, path: Path, columns: tuple[str, ...], *, delimiter: str, select: str = "*"
) -> pa.Table | None:
    """A table of users or items beside the ratings; None where the data set has none."""
    if not path.is_file():
        return None
    encoding = encoding_of(path)
    rows = table(con, f"SELECT {select} FROM {scan(path, columns, delimiter=delimiter, encoding=encoding)}")
    refuse_malformed(
        con,
        path,
        bad_values=rows.column(0).null_count,
        is_bad=lambda line: not (row := row_of(line, columns, delimiter)) or not row[columns[0]],
        expected=f"{len(columns)} fields separated by {delimiter!r}: {', '.join(columns[:5])}",
        encoding=encoding,
    )
    return rows


def _movies(folder: Path, *, item: str) -> pa.Table | None:
    path = folder / "movies.csv"
    if not path.is_file():
        return None
    # at most some ten thousand short rows with quoted commas: what the csv module is for
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            if next(rows, None) != ["movieId", "title", "genres"]:
                raise DataError(f"{path}: expected the header movieId,title,genres.")
            kept = []
            for row in rows:
                if len(row) != 3 or not row[0]:
                    raise DataError(f"{path}: line {rows.line_num}: {row!r}: expected movieId,title,genres.")
                kept.append(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: line {rows.line_num + 1}: {error}; take the file from its source again."
            ) from None
    return pa.table(
        {name: pa.array([row[at] for row in kept], pa.string()) for at, name in enumerate(("item", "title", "genres"))}
    )


def _sql(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
