"""The report of a check on a terminal."""

import io

import pytest
from rich.console import Console

from peterrec.data.logs.problems import CheckReport, Findings, Offender


def lines(report: CheckReport, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(report.render())
    return [line.rstrip() for line in console.export_text().splitlines()]


def report(files: tuple[str, ...], *, rows: int = 200_000, bad: int = 2) -> CheckReport:
    findings = Findings()
    offenders = [Offender(files[0], 22066, "yesterday"), Offender(files[-1], 7, "[red]soon[/red]")]
    findings.add("not_a_time", "bad_row", "write a whole number", offenders=offenders, column="at")
    findings.add("no_file", "note", "nothing was named")
    return findings.report(rows_read=rows, bad_rows=bad, files=files)


def test_a_block_a_problem():
    assert lines(report(("logs/a.csv", "logs/b.parquet")), 80) == [
        "bad row  a.csv:22066  column at  value 'yesterday'  (2 rows)",
        "         b.parquet row 7  value '[red]soon[/red]'",
        "         → write a whole number",
        "",
        "note     → nothing was named",
        "",
        "2 files, 200,000 rows read: 2 rows (less than 0.01%) cannot be used.",
    ]


def test_files_of_one_name_keep_what_tells_them_apart():
    found = "\n".join(lines(report(("/data/logs/may/a.csv", "/data/logs/june/a.csv")), 100))
    assert "may/a.csv:22066" in found
    assert "june/a.csv:7" in found
    assert "logs" not in found
    assert "logs/a.csv:7" in "\n".join(lines(report(("a.csv", "logs/a.csv")), 100))
    assert "/logs/a.csv:7" in "\n".join(lines(report(("a.csv", "/logs/a.csv")), 100))


def test_what_is_not_shown_is_counted():
    findings = Findings()
    offenders = [Offender("a.csv", n) for n in range(1, 31)]
    findings.add("empty_id", "bad_row", "fill it", offenders=offenders, column="user", count=1000)
    found = lines(findings.report(rows_read=2000, bad_rows=1000, files=("a.csv",)), 80)
    assert [line for line in found if "a.csv:" in line][-1].strip() == "a.csv:5"
    assert "         … and 995 more" in found
    assert "(1,000 rows)" in found[0]
    assert found[-1].endswith("1,000 rows (50.00%) cannot be used.")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_long_lines_stay_in_their_column(width):
    findings = Findings()
    name = "events-of-the-whole-year-" * 4 + ".csv.gz"
    findings.add("id", "fatal", "mend the line " * 20, offenders=[Offender(name, 5, "x" * 60)], column="user")
    found = lines(findings.report(rows_read=1, bad_rows=0, files=(name,)), width)
    assert max(map(len, found)) <= width
    blocks = found[: found.index("")]
    assert all(line.startswith(("fatal  ", "       ")) for line in blocks)
    assert "".join(blocks).replace(" ", "").count("mendtheline") == 20
    assert name in "".join(line[7:] for line in blocks)


@pytest.mark.parametrize(
    ("bad", "rows", "share"),
    [(1, 3, "33.33%"), (1, 10_000, "0.01%"), (8, 203_592, "less than 0.01%"), (99_999, 100_000, "more than 99.99%")],
)
def test_shares_that_are_not_nothing_do_not_look_like_it(bad, rows, share):
    assert f"({share})" in report(("a.csv",), rows=rows, bad=bad).verdict


def test_a_clean_log_is_one_line():
    assert lines(Findings().report(rows_read=1, bad_rows=0, files=("a.csv",)), 80) == [
        "1 file, 1 row read: all can be used."
    ]
