"""The users table: read as it is, with every user once."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.logs.labels import read_labels
from peterrec.data.logs.problems import CheckReport, Problem

KNOWN = pa.array(["a", "b", "c"])


def found(report: CheckReport, rule: str) -> Problem:
    matching = [p for p in report.problems if p.rule == rule]
    assert len(matching) == 1, [(p.rule, p.column) for p in report.problems]
    return matching[0]


def write(path: Path, content: str) -> Path:
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path


@pytest.mark.parametrize("name", ["u.csv", "u.tsv", "u.csv.gz", "u.jsonl", "u.parquet"])
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    rows = [
        {"user": "007", "age": 25, "zip": "01234", "score": 1.5, "note": "é, x"},
        {"user": "b", "age": None, "zip": "99", "score": 2.0, "note": None},
    ]
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif "json" in name:
        write(path, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "\t" if "tsv" in name else ","
        lines = [list(rows[0]), *([f'"{"" if v is None else v}"' for v in row.values()] for row in rows)]
        write(path, "".join(separator.join(line) + "\n" for line in lines))
    table, report = read_labels(path)
    assert (report.ok, report.rows_read) == (True, 2)
    assert table.to_pylist() == rows
    assert table.schema.types == [pa.string(), pa.int64(), pa.string(), pa.float64(), pa.string()]


def test_a_table_and_another_column_name() -> None:
    table, report = read_labels(pa.table({"sex": ["f"], "uid": [2**53 + 1], "all": [[1, 2]]}), user="uid")
    assert report.ok
    assert table.to_pylist() == [{"user": "9007199254740993", "sex": "f", "all": [1, 2]}]


def test_duplicated_users_are_named_with_their_rows(tmp_path: Path) -> None:
    content = "user,sex\na,f\nb,m\na,f\nb,f\n\nc,m\na,f\n"
    table, report = read_labels(write(tmp_path / "u.csv", content))
    equal, conflict = found(report, "duplicate_user"), found(report, "conflicting_user")
    assert (equal.severity, equal.row, equal.value, equal.count) == ("bad_row", 4, "a (also in row 2)", 2)
    assert (conflict.row, conflict.value, conflict.count) == (5, "b (also in row 3)", 1)
    assert (report.rows_read, report.bad_rows, report.ok) == (6, 3, False)
    assert table.to_pylist() == [
        {"user": "a", "sex": "f"},
        {"user": "b", "sex": "m"},
        {"user": "c", "sex": "m"},
    ]


def test_a_null_differs_from_a_value() -> None:
    _, report = read_labels(pa.table({"user": ["a", "a", "b", "b"], "x": [1, None, None, None]}))
    assert (found(report, "conflicting_user").row, found(report, "duplicate_user").row) == (2, 4)


def test_missing_users_and_broken_lines(tmp_path: Path) -> None:
    _, report = read_labels(write(tmp_path / "u.csv", "user,sex\na,f\n,m\nb\nc,m,x\n \u00a0,m\n"))
    assert [o.row for o in found(report, "empty_id").offenders] == [3, 6]
    assert (found(report, "too_few_fields").row, found(report, "too_many_fields").row) == (4, 5)
    assert (report.rows_read, report.bad_rows) == (5, 4)
    lines = '{"user": "a"}\n{"user": 1.5}\n{"user": null}\nnonsense\n'
    table, report = read_labels(write(tmp_path / "u.jsonl", lines))
    assert [o.row for o in found(report, "empty_id").offenders] == [2, 3]
    assert (found(report, "not_json").row, table.to_pylist()) == (4, [{"user": "a"}])


@pytest.mark.parametrize(
    ("content", "rule", "words"),
    [
        ("usr,sex\na,f\n", "missing_column", "Did you mean 'usr'"),
        ("", "empty_file", "0 bytes"),
        ("user,sex\n", "no_rows", "no rows"),
        ("user,sex\n,f\n", "no_rows", "no row can be used"),
        ("user,sex,sex\na,f,m\n", "duplicated_column", "rename"),
    ],
)
def test_fatal_faults(tmp_path: Path, content: str, rule: str, words: str) -> None:
    table, report = read_labels(write(tmp_path / "u.csv", content))
    problem = found(report, rule)
    assert (problem.severity, problem.file, table.num_rows) == ("fatal", str(tmp_path / "u.csv"), 0)
    assert words in problem.fix


def test_float_ids_and_several_files_are_refused(tmp_path: Path) -> None:
    assert found(read_labels(pa.table({"user": [1.0]}))[1], "id_type").severity == "fatal"
    for name in ("a.csv", "b.csv"):
        write(tmp_path / name, "user\na\n")
    assert found(read_labels(tmp_path)[1], "several_files").severity == "fatal"


def test_users_absent_from_the_log() -> None:
    table, report = read_labels(pa.table({"user": ["a", "x", "y", "b"]}), known_users=KNOWN)
    absent = found(report, "unknown_user")
    assert (absent.severity, absent.count, [o.value for o in absent.offenders]) == ("note", 2, ["x", "y"])
    assert "50.0%" in absent.fix
    assert (report.ok, table.num_rows) == (True, 4)
    assert read_labels(pa.table({"user": ["a"]}), known_users=pa.chunked_array([KNOWN]))[1].problems == ()


@pytest.mark.parametrize(
    ("users", "known", "hint"),
    [
        (["7"], ["007"], "leading zeros"),
        (["A"], ["a"], "upper and lower case"),
        (["7.0"], ["7"], "trailing '.0'"),
        ([" a"], ["a"], "spaces"),
        (["q"], ["a"], "written so: 'a'"),
    ],
)
def test_no_user_in_the_log(users: list[str], known: list[str], hint: str) -> None:
    _, report = read_labels(pa.table({"user": users}), known_users=pa.array(known))
    assert found(report, "no_known_user").severity == "fatal"
    assert hint in found(report, "no_known_user").fix
