"""The world as files, with bad rows planted on request."""

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from peterrec.atomic import atomic_file
from peterrec.errors import SettingsError

# kind → the fields of the row, from a good row's user, item and time.
_BAD_ROWS = {
    "too few fields": "{user},{item}",
    "too many fields": "{user},{item},{time},{time}",
    "null user": ",{item},{time}",
    "empty item": '{user},"",{time}',
    "time is not a number": "{user},{item},yesterday",
    "negative time": "{user},{item},-1",
    "null time": "{user},{item},",
    "time does not fit 64 bits": "{user},{item},99999999999999999999",
}
MOST_BAD_ROWS = len(_BAD_ROWS)


@dataclass(frozen=True)
class PlantedRow:
    """A bad row of a written log: `line` counts from 1 and the header is line 1."""

    file: Path
    line: int
    kind: str
    text: str


@dataclass(frozen=True)
class WorldFiles:
    """What was written: the parts of the log, earlier first, the users table, the target domain's log, impressions."""

    log: list[Path]
    users: Path
    target: Path
    impressions: Path
    planted: list[PlantedRow]


def write_files(
    folder: Path, *, log: pa.Table, labels: pa.Table, target: pa.Table, impressions: pa.Table, bad_rows: int = 0
) -> WorldFiles:
    """Write `log-0.csv`, `log-1.csv.gz` (the later half), `users.csv`, `target.csv`, `impressions.csv` into a folder.

    Logs have the columns user, item, timestamp (seconds) and the order of the tables given; impressions have more
    columns beside these, with empty cells for nulls. `bad_rows` (at most 8) plants that many rows in the log, each
    bad in its own way, beside the good ones. Raises SettingsError.
    """
    if not 0 <= bad_rows <= MOST_BAD_ROWS:
        raise SettingsError(f"bad_rows = {bad_rows}: it must be from 0 to {MOST_BAD_ROWS}.")
    folder.mkdir(parents=True, exist_ok=True)
    rows = _log_rows(log)
    rows, places = _plant(rows, bad_rows)
    half = len(rows) // 2
    paths = [folder / "log-0.csv", folder / "log-1.csv.gz"]
    planted: list[PlantedRow] = []
    for place, kind in places:
        file, begin = (paths[0], 0) if place < half else (paths[1], half)
        planted.append(PlantedRow(file, place - begin + 2, kind, rows[place]))
    _write(paths[0], "user,item,timestamp", rows[:half])
    _write(paths[1], "user,item,timestamp", rows[half:])
    users_path, target_path = folder / "users.csv", folder / "target.csv"
    columns = [column.to_pylist() for column in labels.columns]
    _write(
        users_path,
        ",".join(labels.column_names),
        [",".join(map(str, row)) for row in zip(*columns, strict=True)],
    )
    _write(target_path, "user,item,timestamp", _log_rows(target))
    impressions_path = folder / "impressions.csv"
    _write_table(impressions_path, impressions)
    return WorldFiles(paths, users_path, target_path, impressions_path, planted)


def _log_rows(log: pa.Table) -> list[str]:
    columns = (log.column(name).to_pylist() for name in ("user", "item", "time"))
    return [f"{user},{item},{time}" for user, item, time in zip(*columns, strict=True)]


def _plant(rows: list[str], bad_rows: int) -> tuple[list[str], list[tuple[int, str]]]:
    """The rows with bad ones spread among them, and where those stand."""
    result, places = [], []
    begin = 0
    for number, (kind, pattern) in enumerate(list(_BAD_ROWS.items())[:bad_rows]):
        end = (number + 1) * len(rows) // (bad_rows + 1)
        result += rows[begin:end]
        user, item, time = rows[end].split(",")
        places.append((len(result), kind))
        result.append(pattern.format(user=user, item=item, time=time))
        begin = end
    return result + rows[begin:], places


def _write_table(path: Path, table: pa.Table) -> None:
    """A table as CSV without quotes: the world's names need none."""
    names = ["timestamp" if name == "time" else name for name in table.column_names]
    buffer = io.BytesIO((",".join(names) + "\n").encode())
    buffer.seek(0, io.SEEK_END)
    csv.write_csv(table, buffer, csv.WriteOptions(include_header=False, quoting_style="none"))
    with atomic_file(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _write(path: Path, header: str, rows: list[str]) -> None:
    content = "\n".join([header, *rows, ""]).encode()
    if path.suffix == ".gz":
        buffer = io.BytesIO()
        # No name and no time in the header: the same world is the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=buffer, mtime=0) as stream:
            stream.write(content)
        content = buffer.getvalue()
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
