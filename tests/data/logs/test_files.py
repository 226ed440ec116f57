"""Files that cannot be read: each fault is fatal and named with its file."""

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.logs.interactions import CheckReport, LogColumns, LogSource, Problem, check_log, open_log
from peterrec.errors import DataError

T = 1_700_000_000
HEADER = "user,item,time\n"
Event = tuple[str, str, int | None, int]


def events(source: LogSource, columns: LogColumns = LogColumns(), **options: object) -> list[Event]:  # noqa: B008
    with open_log(source, columns, **options) as log:  # pyright: ignore[reportArgumentType]
        return log.con.sql("SELECT user, item, time, position FROM events ORDER BY position").fetchall()


def found(report: CheckReport, rule: str, column: str | None = None) -> Problem:
    matching = [p for p in report.problems if p.rule == rule and column in (None, p.column)]
    assert len(matching) == 1, [(p.rule, p.column, p.severity) for p in report.problems]
    return matching[0]


def rules(report: CheckReport, *, notes: bool = False) -> set[str]:
    return {p.rule for p in report.problems if notes or p.severity != "note"}


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(count: int) -> list[tuple[str, str, int]]:
    return [(f"u{n % 7}", f"i{n % 11}", T + n) for n in range(count)]


def as_csv(rows: Sequence[Sequence[object]], separator: str = ",") -> str:
    return separator.join(("user", "item", "time")) + "\n" + "".join(separator.join(map(str, r)) + "\n" for r in rows)


def as_jsonl(rows: Sequence[Sequence[object]]) -> str:
    return "".join(json.dumps(dict(zip(("user", "item", "time"), row, strict=True))) + "\n" for row in rows)


def table(rows: Sequence[Sequence[object]]) -> pa.Table:
    user, item, time = zip(*rows, strict=True)
    return pa.table({"user": list(user), "item": list(item), "time": list(time)})


GOOD = as_csv(rows_of(6))
FATAL: Mapping[str, tuple[str, str | bytes, str, str]] = {
    "misspelt column": ("log.csv", GOOD.replace("user", "User "), "missing_column", "Did you mean 'User '"),
    "missing column": (
        "log.csv",
        GOOD.replace("time", "rating"),
        "missing_column",
        "Known: item, rating, user",
    ),
    "no such key": (
        "log.jsonl",
        '{"usr": 1, "item": 2, "time": 3}\n',
        "missing_column",
        "Did you mean 'usr'",
    ),
    "column twice": ("log.csv", GOOD.replace("item", "user", 1), "missing_column", "item"),
    "user twice": ("log.csv", "user,user,item,time\na,b,c,1\n", "duplicated_column", "more than once"),
    "no header": ("log.csv", GOOD.split("\n", 1)[1], "no_header", "first row looks like data"),
    "empty": ("log.csv", "", "empty_file", "0 bytes"),
    "empty gzip": ("log.csv.gz", gzip.compress(b""), "empty_file", "0 bytes"),
    "blank lines": ("log.csv", "\n\n\n", "empty_file", "blank lines"),
    "header only": ("log.csv", HEADER, "no_rows", "no rows"),
    "unclosed quote": ("log.csv", HEADER + 'a,b,1\n"c,d,2\n' + "e,f,3\n" * 5000, "lost_lines", "5,000 lines"),
    "rows in quotes": ("log.csv", GOOD + '"u,i,1\nu,i,2",i,3\n', "rows_in_quotes", "swallowed"),
    "cut gzip": (
        "log.csv.gz",
        gzip.compress(random.Random(0).randbytes(9999))[:5000],
        "broken_gzip",
        "cut off",
    ),
    "no gzip": ("log.csv.gz", GOOD, "broken_gzip", "not gzip"),
    "UTF-16": ("log.csv", GOOD.encode("utf-16"), "not_utf8", "UTF-16"),
    "UTF-16 without mark": ("log.csv", GOOD.encode("utf-16-le"), "not_utf8", "UTF-16"),
    "not Parquet": ("log.parquet", GOOD, "not_parquet", "PAR1"),
    "zip": ("log.csv", b"PK\x03\x04" + bytes(100), "foreign_format", "zip"),
    "semicolons and other names": ("log.csv", "u;i;t\na;b;1\nc;d;2\n", "wrong_separator", "semicolon"),
    "JSON array": ("log.json", '[{"user": 1}]', "json_array", "one object a line"),
    "mixed line ends": ("log.csv", HEADER + "a,b,1\r\nc,d,2\n", "line_ends", "dos2unix"),
    "old Mac": ("log.csv", GOOD.replace("\n", "\r"), "line_ends", "mac2unix"),
}


@pytest.mark.parametrize("name", FATAL)
def test_fatal_faults(tmp_path: Path, name: str) -> None:
    file, content, rule, words = FATAL[name]
    path = write(tmp_path / file, content)
    problems = [p for p in check_log(path, LogColumns()).problems if p.severity == "fatal" and p.rule == rule]
    assert [p.file for p in problems] == [str(path)]
    assert words in problems[0].fix + (problems[0].column or "")
    with pytest.raises(DataError, match=file):
        events(path, bad_rows="drop")


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    write(tmp_path / "ratings.csv", GOOD)
    assert "ratings.csv" in found(check_log(tmp_path / "rating.csv", LogColumns()), "no_such_file").fix
    assert "empty_glob" in rules(check_log(str(tmp_path / "*.parquet"), LogColumns()))
    (tmp_path / "empty").mkdir()
    assert "empty_folder" in rules(check_log(tmp_path / "empty", LogColumns()))
    assert "no_files" in rules(check_log([], LogColumns()))


def test_unreadable_and_special_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.csv")
    assert "not_a_file" in rules(check_log(tmp_path / "pipe.csv", LogColumns()))
    path = write(tmp_path / "log.csv", GOOD)

    def refuse(self: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert "Permission denied" in found(check_log(path, LogColumns()), "unreadable").fix


@pytest.mark.parametrize("damage", ["cut", "flip", "zero"])
def test_damaged_parquet(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(table(rows_of(50_000)), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "zero":
        data[-8:-4] = bytes(4)
    else:
        data[4:40] = bytes(b ^ 0xFF for b in data[4:40])
    problem = next(iter(check_log(write(path, bytes(data)), LogColumns()).problems))
    assert (problem.severity, problem.file) == ("fatal", str(path))
    with pytest.raises(DataError, match=r"log\.parquet"):
        events(path)


def test_one_bad_file_does_not_hide_the_faults_of_another(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "user,thing,time\na,b,1\n")
    write(tmp_path / "b.csv", HEADER + f",i,{T}\n")
    write(tmp_path / "c.csv", "")
    assert {"missing_column", "empty_id", "empty_file"} <= rules(check_log(tmp_path, LogColumns()))
