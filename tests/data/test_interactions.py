"""Interaction logs: what is read must equal what was written, and every fault must be named with its place."""

import csv
import gzip
import json
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peterrec.data.interactions import CheckReport, LogColumns, LogSource, Problem, check_log, open_log
from peterrec.errors import DataError, ResourceError, SettingsError

T = 1_700_000_000  # a second in 2023
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


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "csv.gz", "tsv.gz", "jsonl.gz", "parquet", "arrow"])
def test_every_format_gives_the_same_events(tmp_path: Path, kind: str) -> None:
    rows, path = rows_of(50), tmp_path / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(table(rows), path)
    elif kind == "arrow":
        with pa.ipc.new_stream(path, table(rows).schema) as stream:
            stream.write_table(table(rows))
    else:
        plain = kind.removesuffix(".gz")
        text = as_jsonl(rows) if "json" in plain else as_csv(rows, "\t" if plain == "tsv" else ",")
        write(path, gzip.compress(text.encode()) if kind.endswith(".gz") else text)
    assert events(path) == [(u, i, t * 10**6, n) for n, (u, i, t) in enumerate(rows)]


def test_a_folder_of_mixed_parts_is_read_in_sorted_order(tmp_path: Path) -> None:
    rows = rows_of(40)
    (tmp_path / "b").mkdir()
    write(tmp_path / "a.csv", as_csv(rows[:10]))
    pq.write_table(table(rows[10:20]), tmp_path / "b" / "1.parquet")
    write(tmp_path / "c.jsonl.gz", gzip.compress(as_jsonl(rows[20:30]).encode()))
    write(tmp_path / "d.tsv", as_csv(rows[30:], "\t"))
    write(tmp_path / "README.md", "not a log")
    write(tmp_path / "_SUCCESS", "")
    assert events(tmp_path) == [(u, i, t * 10**6, n) for n, (u, i, t) in enumerate(rows)]
    assert found(check_log(tmp_path, LogColumns()), "file_left_out").file.endswith("README.md")


def test_given_order_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, user in (("x1.csv", "a"), ("x2.csv", "b"), ("x[3].csv", "c")):
        write(tmp_path / name, f"{HEADER}{user},i,{T}\n")
    assert [e[0] for e in events([tmp_path / "x2.csv", tmp_path / "x1.csv"])] == ["b", "a"]
    assert [e[0] for e in events(str(tmp_path / "x*.csv"))] == ["a", "b", "c"]
    assert [e[0] for e in events(tmp_path / "x[3].csv")] == ["c"]
    monkeypatch.chdir(tmp_path)
    assert [e[0] for e in events("x[12].csv")] == ["a", "b"]
    report = check_log(["x1.csv", "x*.csv"], LogColumns())
    assert (report.rows_read, found(report, "same_file_twice").file) == (3, "x1.csv")


def test_tables_and_streams(tmp_path: Path) -> None:
    rows = rows_of(30_000)
    whole = pa.Table.from_batches(table(rows).to_batches(max_chunksize=101))
    expected = [(u, i, t * 10**6, n) for n, (u, i, t) in enumerate(rows)]
    assert events(whole) == expected
    assert events(whole.to_reader()) == expected
    report = check_log(table([("u", None, T), (" ", "i", T)]), LogColumns())
    assert [(p.file, p.row) for p in report.problems if p.severity == "bad_row"] == [("<table>", 2), ("<table>", 1)]


def test_many_rows_keep_their_order_in_every_format(tmp_path: Path) -> None:
    count = 300_000  # several row groups and buffers, so that threads could mix them
    log = pa.table({"user": np.arange(count), "item": np.arange(count) % 977, "time": np.full(count, T)})
    pq.write_table(log, tmp_path / "a.parquet", row_group_size=20_000)
    with (tmp_path / "b.csv").open("w") as file:
        file.write(HEADER + "".join(f"{n},{n % 977},{T}\n" for n in range(count)))
    with open_log([tmp_path / "a.parquet", tmp_path / "b.csv"], LogColumns(), threads=4) as opened:
        wrong = "SELECT count(*) FROM events WHERE user::BIGINT <> position % 300000"
        assert opened.con.sql(wrong).fetchall() == [(0,)]
        assert opened.con.sql("SELECT max(position), count(*) FROM events").fetchall() == [(599_999, 600_000)]


def test_other_names_and_no_time(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", 'who,"what, exactly",x\na,"b ""c""",1\n')
    assert events(path, LogColumns(user="who", item="what, exactly", time=None)) == [("a", 'b "c"', None, 0)]


@pytest.mark.parametrize("separator", ["\t", ";", "|"])
def test_a_certain_separator_is_taken_and_noted(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "log.csv", as_csv(rows_of(5), separator))
    assert len(events(path)) == 5
    assert "separated by" in found(check_log(path, LogColumns()), "separator").fix


# ---------------------------------------------------------------- ids


ODD_IDS = ["007", "9007199254740993", "1.0", "é", "e\u0301", "🦉", "x" * 4096, "=cmd()", "NaN", "a'b", '"q"', "\u202eabc", "a b"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_text_ids_are_exact(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"log.{kind}"
    rows = [(odd, odd, T) for odd in ODD_IDS]
    if kind == "parquet":
        pq.write_table(table(rows), path)
    elif kind == "jsonl":
        write(path, as_jsonl(rows))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("user", "item", "time"), *rows])
    read = events(path)
    assert [e[0] for e in read] == ODD_IDS
    assert [e[1] for e in read] == ODD_IDS


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\x02"), min_size=1), min_size=1))
def test_any_text_comes_back_as_it_was(tmp_path: Path, ids: list[str]) -> None:
    ids = [f"<{text}>" for text in ids]
    with (tmp_path / "log.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("user", "item"), *((text, text) for text in ids)])
    write(tmp_path / "log.jsonl", "".join(json.dumps({"user": t, "item": t}) + "\n" for t in ids))
    pq.write_table(pa.table({"user": ids, "item": ids}), tmp_path / "log.parquet")
    for name in ("log.csv", "log.jsonl", "log.parquet"):
        assert [e[:2] for e in events(tmp_path / name, LogColumns(time=None))] == [(t, t) for t in ids], name


def test_integer_uuid_and_dictionary_ids_become_text(tmp_path: Path) -> None:
    big, small = 2**63 - 1, 2**53 + 1
    key = uuid.UUID("5AFFC730-AA94-46BC-9C2E-0EC317626176")
    log = pa.table(
        {
            "user": pa.array([big, small], pa.int64()),
            "item": pa.array([key.bytes, key.bytes], pa.uuid()),
            "time": pa.array(["a", "b"]).dictionary_encode(),
        }
    )
    pq.write_table(log, tmp_path / "log.parquet")
    for source in (log, tmp_path / "log.parquet"):
        read = events(source, LogColumns(time=None))
        assert [e[:2] for e in read] == [(str(big), str(key)), (str(small), str(key))]
        with open_log(source, LogColumns(item="time", time=None)) as opened:
            assert opened.id_types == {"user": "integer", "item": "text"}
    write(tmp_path / "log.jsonl", f'{{"user": {10**25 + 1}, "item": {2**64 - 1}}}\n{{"user": -3, "item": "x"}}\n')
    read = events(tmp_path / "log.jsonl", LogColumns(time=None))
    assert [e[:2] for e in read] == [(str(10**25 + 1), str(2**64 - 1)), ("-3", "x")]


@pytest.mark.parametrize(
    "values",
    [pa.array([1.0]), pa.array([True]), pa.array([[1]]), pa.array([date(2024, 1, 1)]), pa.array([b"a"])],
    ids=str,
)
def test_other_id_types_are_refused(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"user": values, "item": ["a"], "time": [T]}), tmp_path / "log.parquet")
    with pytest.raises(DataError, match=r"column 'user'.*ids must be text or integers"):
        events(tmp_path / "log.parquet")


def test_json_ids_of_other_types_are_bad_rows(tmp_path: Path) -> None:
    lines = ['{"user": 1.5, "item": "a"}', '{"user": "u", "item": [1]}', '{"user": true, "item": "a"}', '{"user": "u", "item": "a"}']
    report = check_log(write(tmp_path / "log.jsonl", "\n".join(lines) + "\n"), LogColumns(time=None))
    user = found(report, "id_value", "user")
    assert [(o.row, o.value) for o in user.offenders] == [(1, "1.5"), (3, "true")]
    assert (found(report, "id_value", "item").row, report.bad_rows) == (2, 3)


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_units_are_told_from_the_median(tmp_path: Path, unit: str, per_second: int, kind: str) -> None:
    rows = [(f"u{n}", "i", (T + n) * per_second) for n in range(5)]
    path = tmp_path / f"log.{kind}"
    if kind == "parquet":
        pq.write_table(table(rows), path)
    else:
        write(path, as_csv(rows) if kind == "csv" else as_jsonl(rows))
    with open_log(path, LogColumns()) as log:
        assert log.time_unit == unit
        times = log.con.sql("SELECT time FROM events ORDER BY position").fetchall()
    assert times == [((T + n) * 10**6,) for n in range(5)]
    assert "seconds" in found(check_log(path, LogColumns()), "time_unit").fix


def test_mixed_units_are_bad_rows(tmp_path: Path) -> None:
    times = [T, T + 1, (T + 2) * 1000, T + 3, (T + 4) * 10**6, 17_000, 2 * 10**18 + 10**17]
    report = check_log(write(tmp_path / "log.csv", as_csv([("u", "i", t) for t in times])), LogColumns())
    mixed = found(report, "time_mixed")
    assert [o.row for o in mixed.offenders] == [4, 6, 8]
    assert [o.row for o in found(report, "time_range").offenders] == [7]
    assert report.bad_rows == 4


def test_an_order_column_is_no_clock(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", as_csv([("u", "i", n) for n in (0, 2, 1, T, -1)]))
    report = check_log(path, LogColumns())
    assert "order" in found(report, "time_unit").fix
    assert [found(report, rule).row for rule in ("time_mixed", "time_range")] == [5, 6]
    assert [e[2] for e in events(path, bad_rows="drop")] == [0, 2, 1]


def test_the_unit_can_be_given() -> None:
    big = table([("u", "i", n * 10**8) for n in range(9)])
    assert "time_range" in rules(check_log(big, LogColumns()))
    assert [e[2] for e in events(big, LogColumns(time_unit="order"))] == [n * 10**8 for n in range(9)]


ISO = {
    "2024-01-31T12:00:00Z": datetime(2024, 1, 31, 12, tzinfo=UTC),
    "2024-01-31 12:00:00": datetime(2024, 1, 31, 12, tzinfo=UTC),
    "2024-01-31T12:00:00.123456+05:30": datetime(2024, 1, 31, 6, 30, 0, 123456, tzinfo=UTC),
    " 2024-02-29 ": datetime(2024, 2, 29, tzinfo=UTC),
}


def micros(moment: datetime) -> int:
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 10**6 + delta.microseconds


def test_iso_times_are_utc_microseconds(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", as_csv([("u", "i", text) for text in ISO]))
    assert [e[2] for e in events(path)] == [micros(moment) for moment in ISO.values()]


@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamp_columns(tmp_path: Path, unit: str, zone: str | None) -> None:
    moment = datetime(2024, 1, 31, 12)
    log = pa.table({"user": ["u"], "item": ["i"], "time": pa.array([moment], pa.timestamp(unit, zone))})
    pq.write_table(log, tmp_path / "log.parquet")
    for source in (log, tmp_path / "log.parquet"):
        assert events(source)[0][2] == micros(moment.replace(tzinfo=UTC))


def test_dates_and_seconds_with_fractions(tmp_path: Path) -> None:
    days = pa.table({"user": ["u"], "item": ["i"], "time": pa.array([date(2024, 1, 31)])})
    assert events(days)[0][2] == micros(datetime(2024, 1, 31, tzinfo=UTC))
    fractions = pa.table({"user": ["u"] * 2, "item": ["i"] * 2, "time": [T + 0.25, float(T)]})
    assert [e[2] for e in events(fractions)] == [T * 10**6 + 250_000, T * 10**6]
    path = write(tmp_path / "log.csv", as_csv([("u", "i", f"{T}.000001"), ("u", "i", f"{T}.0")]))
    assert [e[2] for e in events(path)] == [T * 10**6 + 1, T * 10**6]
    narrow = pa.table({"user": ["u"], "item": ["i"], "time": pa.array([0.5], pa.float32())})
    assert found(check_log(narrow, LogColumns()), "time_type").severity == "fatal"


BAD_TIMES = ["", " ", "soon", "12.5", "0x10", "1_000", "nan", "31/01/2024", "-5", "0", "99999999999", "9" * 30, "1900-01-01"]


@pytest.mark.parametrize("bad", BAD_TIMES)
def test_bad_times_are_bad_rows(tmp_path: Path, bad: str) -> None:
    good = [("u", "i", T + n) for n in range(4)]
    path = write(tmp_path / "log.csv", as_csv([*good[:2], ("u", "i", bad), *good[2:]]))
    report = check_log(path, LogColumns())
    problem = found(report, next(iter(rules(report))))
    assert (problem.severity, problem.row, problem.column, report.bad_rows) == ("bad_row", 4, "time", 1)
    assert [e[3] for e in events(path, bad_rows="drop")] == [0, 1, 3, 4]
    with pytest.raises(DataError, match=r"log.csv, row 4, column 'time'(.|\n)*--bad-rows drop"):
        events(path)


def test_null_times_and_times_in_the_future() -> None:
    report = check_log(table([("u", "i", T), ("u", "i", None), ("u", "i", 4_000_000_000)]), LogColumns())
    assert found(report, "empty_time").row == 2
    assert (found(report, "time_future").severity, found(report, "time_future").row) == ("note", 3)
    assert report.bad_rows == 1


# ---------------------------------------------------------------- broken files


GOOD = as_csv(rows_of(6))
FATAL: Mapping[str, tuple[str, str | bytes, str, str]] = {
    "misspelt column": ("log.csv", GOOD.replace("user", "User "), "missing_column", "Did you mean 'User '"),
    "missing column": ("log.csv", GOOD.replace("time", "rating"), "missing_column", "Known: item, rating, user"),
    "no such key": ("log.jsonl", '{"usr": 1, "item": 2, "time": 3}\n', "missing_column", "Did you mean 'usr'"),
    "column twice": ("log.csv", GOOD.replace("item", "user", 1), "missing_column", "item"),
    "user twice": ("log.csv", "user,user,item,time\na,b,c,1\n", "duplicated_column", "more than once"),
    "no header": ("log.csv", GOOD.split("\n", 1)[1], "no_header", "first row looks like data"),
    "empty": ("log.csv", "", "empty_file", "0 bytes"),
    "empty gzip": ("log.csv.gz", gzip.compress(b""), "empty_file", "0 bytes"),
    "blank lines": ("log.csv", "\n\n\n", "empty_file", "blank lines"),
    "header only": ("log.csv", HEADER, "no_rows", "no rows"),
    "unclosed quote": ("log.csv", HEADER + 'a,b,1\n"c,d,2\n' + "e,f,3\n" * 5000, "lost_lines", "5,000 lines"),
    "cut gzip": ("log.csv.gz", gzip.compress(random.Random(0).randbytes(9999))[:5000], "broken_gzip", "cut off"),
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


# ---------------------------------------------------------------- bad rows


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


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("shift", ["", "blank", "quoted"])
@pytest.mark.parametrize("name", ROW_FAULTS)
def test_bad_rows_are_named_by_line(tmp_path: Path, name: str, shift: str, ending: str) -> None:
    line, rule = ROW_FAULTS[name]
    before = {"": "", "blank": "\n\n", "quoted": f'"q",r,"{T}"\n"x","y",{T}\n'}[shift]
    wide = HEADER.replace("\n", "") + "\n" + before + as_csv(rows_of(3)).split("\n", 1)[1]
    after = as_csv(rows_of(2)).split("\n", 1)[1]
    content = (wide.encode() + line + after.encode() + line).replace(b"\n", ending.encode())
    report = check_log(write(tmp_path / "log.csv", content), LogColumns())
    first = wide.count("\n") + 1
    second = first + line.count(b"\n") + 2
    problem = found(report, rule)
    assert [o.row for o in problem.offenders] == [first, second]
    assert (problem.severity, problem.count, report.bad_rows) == ("bad_row", 2, 2)
    assert report.rows_read == 7 + {"": 0, "blank": 0, "quoted": 2}[shift]


def test_a_line_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"{HEADER}u,i,{T}\nu,{'x' * 2_100_000},{T}\nu,i,{T + 1}\n")
    report = check_log(path, LogColumns())
    assert (found(report, "line_too_long").row, report.rows_read, report.bad_rows) == (3, 3, 1)


def test_line_numbers_agree_with_a_reading_line_by_line(tmp_path: Path) -> None:
    """Random files of good, bad, quoted, broken and blank lines, against Python's own csv."""
    for seed in range(12):
        rng = random.Random(seed)
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
                lines.append(f'u{n},i,{T},"two\nlines"')
                at += 1
            else:
                lines.append("" if kind == "blank" else f"u{n},i,{T},x")
            at += 1
        report = check_log(write(tmp_path / "log.csv", "\n".join(lines) + "\n"), LogColumns())
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
    write(tmp_path / "b.jsonl", as_jsonl([("u", "i", T)]) + '\n{"user": "u", "item"\n[1]\n{"item": "i", "time": 5}\n')
    report = check_log([tmp_path / "a.parquet", tmp_path / "b.jsonl"], LogColumns())
    user = found(report, "empty_id", "user")
    assert [(Path(o.file).name, o.row) for o in user.offenders] == [("a.parquet", 2), ("b.jsonl", 5)]
    assert (found(report, "empty_id", "item").row, found(report, "nul_byte").row) == (3, 4)
    assert [o.row for o in found(report, "not_json").offenders] == [3, 4]
    assert report.bad_rows == 6


# ---------------------------------------------------------------- notes


def test_notes_do_not_stand_in_the_way(tmp_path: Path) -> None:
    lines = [f"u,i,{T}", f"u,i,{T}", f"u,i,{T}", f" v,i,{T}", f"nan,i,{T}", f"w,i,{T}"]
    path = write(tmp_path / "log.csv", HEADER + "\n".join(lines))
    report = check_log(path, LogColumns())
    assert (report.ok, report.fatal) == (True, False)
    assert (found(report, "duplicate_row").count, found(report, "duplicate_row").row) == (2, 3)
    assert (found(report, "padded_id").row, found(report, "missing_as_text").row) == (5, 6)
    assert (found(report, "cut_last_line").row, found(report, "cut_last_line").value) == (7, f"w,i,{T}")
    assert len(events(path)) == 6


def test_duplicates_against_a_count(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{a}", f"i{b}", T + int(c)) for a, b, c in rng.integers(0, 6, (500, 3))]
    repeats = [n for n, row in enumerate(rows) if row in rows[:n]]
    problem = found(check_log(table(rows), LogColumns()), "duplicate_row")
    assert (problem.count, [o.row for o in problem.offenders]) == (len(repeats), [n + 1 for n in repeats[:20]])


def test_files_that_differ(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [7], "item": ["a"], "time": [T]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user": ["7"], "item": ["a"], "time": [T + 1], "x": [1]}), tmp_path / "b.parquet")
    report = check_log(str(tmp_path / "*.parquet"), LogColumns())
    assert Path(found(report, "types_differ").file).name == "b.parquet"
    assert found(report, "columns_differ").severity == "note"
    assert [e[0] for e in events(tmp_path)] == ["7", "7"]


# ---------------------------------------------------------------- report and resources


def test_the_report_as_json_and_on_a_screen(tmp_path: Path) -> None:
    from rich.console import Console

    path = write(tmp_path / "log.csv", HEADER + f",[red]i[/red],{T}\nu,{'x' * 200},soon\nu,i,{T}\n")
    report = check_log(path, LogColumns())
    loaded = json.loads(report.to_json())
    assert (loaded["ok"], loaded["rows_read"], loaded["bad_rows"], loaded["files"]) == (False, 3, 2, [str(path)])
    first = next(p for p in loaded["problems"] if p["rule"] == "empty_id")
    assert first.items() >= {"file": str(path), "row": 2, "column": "user", "count": 1, "severity": "bad_row"}.items()
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(report.render())
    console.file.close()
    shown = console.export_text()
    assert "soon" in shown
    assert "2 rows (66.67%) cannot be used" in shown


def test_nothing_is_left_behind_and_limits_are_kept(tmp_path: Path) -> None:
    with open_log(table(rows_of(10)), LogColumns(), temp_directory=tmp_path) as log:
        assert list(tmp_path.iterdir())
        log.con.execute("CREATE TABLE more AS SELECT * FROM events ORDER BY user, time, position")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SettingsError, match="memory_limit"):
        check_log(table(rows_of(10)), LogColumns(), memory_limit="lots")
    with pytest.raises(SettingsError, match="bad_rows"):
        events(table(rows_of(10)), bad_rows="ignore")


def test_a_disk_that_is_full_is_a_lack_of_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    from peterrec.data.log_parts import refuse_lack_of_room

    with pytest.raises(ResourceError, match="TMPDIR"):
        refuse_lack_of_room(duckdb.IOException("IO Error: Could not write file: No space left on device"))
    with pytest.raises(ResourceError, match="memory limit"):
        refuse_lack_of_room(duckdb.OutOfMemoryException("Out of Memory Error: could not allocate"))
    refuse_lack_of_room(duckdb.IOException("IO Error: something else"))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peterrec.data.log_parts as log_parts

    path = write(tmp_path / "log.csv", GOOD)
    real: Callable[[Path], tuple[int, int]] = log_parts.stamp
    monkeypatch.setattr(log_parts, "stamp", lambda p: (real(p)[0] + 1, 0))
    assert "changing_file" in rules(check_log(path, LogColumns()))
