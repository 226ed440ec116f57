"""A check's report for a terminal: a block a problem, readable from 60 columns on."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peterrec.data.logs.problems import CheckReport, Offender, Problem, Severity

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_STYLES: dict[Severity, str] = {"fatal": "bold red", "bad_row": "bold yellow", "note": "bold cyan"}
_ROW_FILES = (".parquet", ".pq", ".arrow", ".feather", ">")  # rows are counted in these (">" ends a table), else lines


def render(report: CheckReport, *, shown: int) -> "RenderableType":
    """Severity at the left; beside it place, column and value of up to `shown` offenders, then what to do."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    verdict = Text(report.verdict, style="bold green" if report.ok else "bold red")
    if not report.problems:
        return verdict
    names = _short_names(report.files)
    blocks = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    blocks.add_column(no_wrap=True)
    blocks.add_column(overflow="fold")
    for problem in report.problems:
        severity = Text(problem.severity.replace("_", " "), style=_STYLES[problem.severity])
        blocks.add_row(severity, Group(*_lines(problem, names, shown=shown), _fix(problem), Text()))
    return Group(blocks, verdict)


def _lines(problem: Problem, names: dict[str, str], *, shown: int) -> list["Text"]:
    """A line an offender; the first one tells the column, and the count where there are several."""
    from rich.text import Text

    lines = []
    for number, offender in enumerate(problem.offenders[:shown]):
        # Text, not str: ids may hold what rich takes for markup
        parts = [Text(_place(offender, names), style="bold")] if offender.file or offender.row is not None else []
        if problem.column is not None and number == 0:
            parts.append(Text.assemble("column ", (problem.column, "bold")))
        if offender.value is not None:
            parts.append(Text.assemble("value ", (repr(offender.value), "magenta")))
        if problem.count > 1 and number == 0:
            unit = "rows" if problem.severity == "bad_row" else "in all"
            parts.append(Text(f"({problem.count:,} {unit})", style="dim"))
        if parts:
            lines.append(Text("  ").join(parts))
    if lines and problem.count > (told := min(shown, len(problem.offenders))):
        lines.append(Text(f"… and {problem.count - told:,} more", style="dim"))
    return lines


def _fix(problem: Problem) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    fix = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    fix.add_row(Text("→", style="dim"), Text(problem.fix))
    return fix


def _place(offender: Offender, names: dict[str, str]) -> str:
    file = names.get(offender.file, offender.file)
    if offender.row is None:
        return file
    if not file:
        return f"row {offender.row}"
    return f"{file} row {offender.row}" if file.lower().endswith(_ROW_FILES) else f"{file}:{offender.row}"


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """The files without the folders that they share, which take a terminal's width and tell nothing."""
    names = {file: Path(file).name for file in files}
    if len(set(names.values())) == len(names):
        return names
    folders = [os.path.dirname(file) for file in names]  # noqa: PTH120 - a Path would drop what the user typed
    try:
        shared = os.path.commonpath(folders)
    except ValueError:  # absolute and relative ones
        return {}
    return {file: os.path.relpath(file, shared) if shared else file for file in names}
