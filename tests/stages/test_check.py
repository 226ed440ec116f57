"""The check stage: one report of a log and its users table."""

from pathlib import Path

import pyarrow as pa

from peterrec.data.logs.interactions import LogColumns
from peterrec.stages.check import run

T = 1_700_000_000
LOG = pa.table({"user": ["a", "b", None], "item": ["x", "y", "z"], "time": [T, T + 1, T + 2]})


def test_the_log_alone() -> None:
    report = run(LOG, columns=LogColumns())
    assert (report.ok, report.fatal, report.rows_read, report.bad_rows) == (False, False, 3, 1)


def test_log_and_users_in_one_report(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("uid,sex\na,f\nb,m\nb,f\nq,f\n")
    before = sorted(tmp_path.iterdir())
    report = run(LOG, columns=LogColumns(), users=tmp_path / "users.csv", users_column="uid")
    assert {"empty_id", "conflicting_user", "unknown_user"} <= {p.rule for p in report.problems}
    assert (report.rows_read, report.bad_rows, len(report.files)) == (7, 2, 2)
    severities = [p.severity for p in report.problems]
    assert severities == sorted(severities, key=["fatal", "bad_row", "note"].index)
    assert sorted(tmp_path.iterdir()) == before


def test_users_are_checked_even_if_the_log_cannot_be_read(tmp_path: Path) -> None:
    users = pa.table({"user": ["a", "a"]})
    report = run(tmp_path / "nowhere.csv", columns=LogColumns(), users=users)
    assert [p.rule for p in report.problems] == ["no_such_file", "duplicate_user"]
