"""Interaction logs: what is read must equal what was written, in every format and order."""

import csv
import gzip
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peterrec.data.logs.interactions import CheckReport, LogColumns, LogSource, Problem, check_log, open_log
from peterrec.errors import DataError, ResourceError, SettingsError

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
    assert [(p.file, p.row) for p in report.problems if p.severity == "bad_row"] == [
        ("<table>", 2),
        ("<table>", 1),
    ]


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


ODD_IDS = [
    "007",
    "9007199254740993",
    "1.0",
    "é",
    "e\u0301",
    "🦉",
    "x" * 4096,
    "=cmd()",
    "NaN",
    "a'b",
    '"q"',
    "\u202eabc",
    "a b",
]


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


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\x02"), min_size=1),
        min_size=1,
    )
)
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
    write(
        tmp_path / "log.jsonl",
        f'{{"user": {10**25 + 1}, "item": {2**64 - 1}}}\n{{"user": -3, "item": "x"}}\n',
    )
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
    lines = [
        '{"user": 1.5, "item": "a"}',
        '{"user": "u", "item": [1]}',
        '{"user": true, "item": "a"}',
        '{"user": "u", "item": "a"}',
    ]
    report = check_log(write(tmp_path / "log.jsonl", "\n".join(lines) + "\n"), LogColumns(time=None))
    user = found(report, "id_value", "user")
    assert [(o.row, o.value) for o in user.offenders] == [(1, "1.5"), (3, "true")]
    assert (found(report, "id_value", "item").row, report.bad_rows) == (2, 3)


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
    assert (problem.count, [o.row for o in problem.offenders]) == (
        len(repeats),
        [n + 1 for n in repeats[:20]],
    )


def test_files_that_differ(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [7], "item": ["a"], "time": [T]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"user": ["7"], "item": ["a"], "time": [T + 1], "x": [1]}), tmp_path / "b.parquet")
    report = check_log(str(tmp_path / "*.parquet"), LogColumns())
    assert Path(found(report, "types_differ").file).name == "b.parquet"
    assert found(report, "columns_differ").severity == "note"
    assert [e[0] for e in events(tmp_path)] == ["7", "7"]


def test_the_report_as_json_and_on_a_screen(tmp_path: Path) -> None:
    from rich.console import Console

    path = write(tmp_path / "log.csv", HEADER + f",[red]i[/red],{T}\nu,{'x' * 200},soon\nu,i,{T}\n")
    report = check_log(path, LogColumns())
    loaded = json.loads(report.to_json())
    assert (loaded["ok"], loaded["rows_read"], loaded["bad_rows"], loaded["files"]) == (
        False,
        3,
        2,
        [str(path)],
    )
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

    from peterrec.data.logs.parts import refuse_lack_of_room

    with pytest.raises(ResourceError, match="TMPDIR"):
        refuse_lack_of_room(duckdb.IOException("IO Error: Could not write file: No space left on device"))
    with pytest.raises(ResourceError, match="memory limit"):
        refuse_lack_of_room(duckdb.OutOfMemoryException("Out of Memory Error: could not allocate"))
    refuse_lack_of_room(duckdb.IOException("IO Error: something else"))


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import peterrec.data.logs.parts as log_parts

    path = write(tmp_path / "log.csv", as_csv(rows_of(6)))
    real: Callable[[Path], tuple[int, int]] = log_parts.stamp
    monkeypatch.setattr(log_parts, "stamp", lambda p: (real(p)[0] + 1, 0))
    assert "changing_file" in rules(check_log(path, LogColumns()))
