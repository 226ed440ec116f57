"""Times: the unit is told, all become microseconds, and what cannot be a time is named."""

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
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
    times = [T, T + 1, (T + 2) * 1000, T + 3, (T + 4) * 10**6, 17_000, 9 * 10**18]
    report = check_log(write(tmp_path / "log.csv", as_csv([("u", "i", t) for t in times])), LogColumns())
    mixed = found(report, "time_mixed")
    assert [o.row for o in mixed.offenders] == [4, 6]
    assert [o.row for o in found(report, "time_range").offenders] == [7, 8]
    assert report.bad_rows == 4
    with open_log(tmp_path / "log.csv", LogColumns(), bad_rows="drop") as log:  # no overflow in the bad ones
        assert log.con.sql("SELECT count(*) FROM events WHERE time IS NOT NULL").fetchall() == [(3,)]


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


BAD_TIMES = [
    "",
    " ",
    "soon",
    "12.5",
    "0x10",
    "1_000",
    "nan",
    "31/01/2024",
    "-5",
    "0",
    "99999999999",
    "9" * 30,
    "1900-01-01",
]


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
