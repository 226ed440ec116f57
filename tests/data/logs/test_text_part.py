"""Bad rows are named by file and line, whatever stands before them."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.logs.interactions import CheckReport, LogColumns, LogSource, Problem, check_log, open_log

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


ROW_FAULTS: Mapping[str, tuple[bytes, str]] = {
    "too few": (b"a,b\n", "too_few_fields"),
    "too many": (b"a,b,1,2\n", "too_many_fields"),
    "quote inside": (b'"a"x,b,1700000000\n', "quotes"),
    "not UTF-8": (b"a\xff,b,1700000000\n", "not_utf8"),
    "empty user": (b",b,1700000000\n", "empty_id"),
    "quoted empty user": (b'"",b,1700000000\n', "empty_id"),
    "blank item": ("a,\u00a0\u2003,1700000000\n".encode(), "empty_id"),
    "NUL": (b"a\0,b,1700000000\n", "nul_byte"),
    "no time": (b"a,b,\n", "empty_time"),
    "line break": (b'"a\nb",c,1700000000\n', "line_break"),
}


@pytest.mark.parametrize(("shift", "ending"), [("", "\n"), ("blank", "\r\n"), ("quoted", "\n"), ("leading", "\n")])
@pytest.mark.parametrize("name", ROW_FAULTS)
def test_bad_rows_are_named_by_line(tmp_path: Path, name: str, shift: str, ending: str) -> None:
    line, rule = ROW_FAULTS[name]
    before = {"blank": "\n\n", "quoted": f'"q",r,"{T}"\n"x","y",{T}\n'}.get(shift, "")
    leading = "\n\n\n" if shift == "leading" else ""
    wide = leading + HEADER + before + as_csv(rows_of(3)).split("\n", 1)[1]
    after = as_csv(rows_of(2)).split("\n", 1)[1]
    content = (wide.encode() + line + after.encode() + line).replace(b"\n", ending.encode())
    report = check_log(write(tmp_path / "log.csv", content), LogColumns())
    first = wide.count("\n") + 1
    second = first + line.count(b"\n") + 2
    problem = found(report, rule)
    assert [o.row for o in problem.offenders] == [first, second]
    assert (problem.severity, problem.count, report.bad_rows) == ("bad_row", 2, 2)
    assert report.rows_read == (9 if shift == "quoted" else 7)


def test_a_line_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"{HEADER}u,i,{T}\nu,{'x' * 2_100_000},{T}\nu,i,{T + 1}\n")
    report = check_log(path, LogColumns())
    assert (found(report, "line_too_long").row, report.rows_read, report.bad_rows) == (3, 3, 1)


def test_line_numbers_agree_with_a_reading_line_by_line(tmp_path: Path) -> None:
    """Random files of good, bad, quoted, broken and blank lines, against Python's own csv."""
    for seed in range(12):
        rng, ending = random.Random(seed), "\r\n" if seed % 2 else "\n"
        lines, ragged, empty, at = ["user,item,time,title"], [], [], 2
        for n in range(400):
            kind = rng.choice(["good"] * 6 + ["ragged", "empty", "blank", "break"] * (seed % 3 > 0))
            if kind == "break" and seed % 3 == 1:
                kind = "good"
            if kind == "ragged":
                ragged.append(at)
                lines.append(f"u{n},i")
            elif kind == "empty":
                empty.append(at)
                lines.append(f",i,{T},x")
            elif kind == "break":
                lines.append(f'u{n},i,{T},"two{ending}lines"')
                at += 1
            else:
                lines.append("" if kind == "blank" else f"u{n},i,{T},x")
            at += 1
        report = check_log(write(tmp_path / "log.csv", ending.join(lines) + ending), LogColumns())
        named = {p.rule: [o.row for o in p.offenders] for p in report.problems}
        assert named.get("too_few_fields", []) == ragged[:20], seed
        assert named.get("empty_id", []) == empty[:20], seed
        assert report.bad_rows == len(ragged) + len(empty)
        assert "lost_lines" not in named


def test_only_the_first_twenty_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", HEADER + "".join(f",i,{T}\nu,i,{T + n}\n" for n in range(50)))
    problem = found(check_log(path, LogColumns()), "empty_id")
    assert ([o.row for o in problem.offenders], problem.count) == (list(range(2, 42, 2)), 50)


def test_bad_rows_in_parquet_and_json(tmp_path: Path) -> None:
    pq.write_table(table([("u", "i", T), (None, "i", T), ("u", "  ", T), ("\0", "i", T)]), tmp_path / "a.parquet")
    write(
        tmp_path / "b.jsonl",
        as_jsonl([("u", "i", T)]) + '\n{"user": "u", "item"\n[1]\n{"item": "i", "time": 5}\n',
    )
    report = check_log([tmp_path / "a.parquet", tmp_path / "b.jsonl"], LogColumns())
    user = found(report, "empty_id", "user")
    assert [(Path(o.file).name, o.row) for o in user.offenders] == [("a.parquet", 2), ("b.jsonl", 5)]
    assert (found(report, "empty_id", "item").row, found(report, "nul_byte").row) == (3, 4)
    assert [o.row for o in found(report, "not_json").offenders] == [3, 4]
    assert report.bad_rows == 6


def test_the_first_and_last_rows_of_each_file_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        pq.write_table(table([(None, "i", T), ("u", "i", T), ("u", None, T)]), tmp_path / f"{name}.parquet")
    report = check_log(tmp_path, LogColumns())
    for column, row in (("user", 1), ("item", 3)):
        places = [(Path(o.file).stem, o.row) for o in found(report, "empty_id", column).offenders]
        assert places == [("a", row), ("b", row), ("c", row)]
