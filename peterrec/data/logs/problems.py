"""What is wrong with a log or table: each problem, its place and what to do; and the report of a check."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from peterrec.errors import DataError

if TYPE_CHECKING:
    from rich.console import RenderableType

Severity = Literal["fatal", "bad_row", "note"]
SEVERITIES: tuple[Severity, ...] = ("fatal", "bad_row", "note")
SHOWN_OFFENDERS = 20  # of each rule; the total is counted
_CLIP = 60


@dataclass(frozen=True)
class Offender:
    """One place that breaks a rule."""

    file: str = ""
    row: int | None = None
    value: str | None = None


@dataclass(frozen=True)
class Problem:
    """One broken rule: its first offender, the `count` of all, up to 19 `others`, and what to do.

    `row` is the 1-based data row, or the line in a text file; `value` is clipped to 60 characters.
    """

    file: str
    rule: str
    row: int | None
    column: str | None
    value: str | None
    count: int
    severity: Severity
    fix: str
    others: tuple[Offender, ...] = ()

    def __str__(self) -> str:
        more = f" ({self.count:,} in all)" if self.count > 1 else ""
        place = self._place(Offender(self.file, self.row, self.value))
        return f"{place}{more}: {self.fix}" if place else self.fix

    @property
    def offenders(self) -> tuple[Offender, ...]:
        """The first and the others."""
        return (Offender(self.file, self.row, self.value), *self.others)

    def _place(self, offender: Offender) -> str:
        parts = [offender.file] if offender.file else []
        parts += [f"row {offender.row}"] if offender.row is not None else []
        parts += [f"column {self.column!r}"] if self.column is not None else []
        parts += [f"value {offender.value!r}"] if offender.value is not None else []
        return ", ".join(parts)


@dataclass(frozen=True)
class CheckReport:
    """All that a check found: `rows_read` data rows in `files`, of which `bad_rows` cannot be used."""

    problems: tuple[Problem, ...]
    rows_read: int
    bad_rows: int
    files: tuple[str, ...]

    def __add__(self, other: "CheckReport") -> "CheckReport":
        """One report of two checks."""
        both = self.problems + other.problems
        problems = tuple(sorted(both, key=lambda problem: SEVERITIES.index(problem.severity)))
        rows, bad = self.rows_read + other.rows_read, self.bad_rows + other.bad_rows
        return CheckReport(problems, rows, bad, self.files + other.files)

    @property
    def fatal(self) -> bool:
        """Whether something stands in the way of reading at all."""
        return any(problem.severity == "fatal" for problem in self.problems)

    @property
    def ok(self) -> bool:
        """Whether every row can be used; notes do not count."""
        return not self.fatal and self.bad_rows == 0

    @property
    def verdict(self) -> str:
        """One line: how many files and rows, and what stands in the way."""
        files = f"{len(self.files):,} {'file' if len(self.files) == 1 else 'files'}"
        read = f"{files}, {self.rows_read:,} {'row' if self.rows_read == 1 else 'rows'} read"
        if self.fatal:
            rules = sum(problem.severity == "fatal" for problem in self.problems)
            problems = "problem" if rules == 1 else "problems"
            return f"{read}: {rules} fatal {problems}; nothing can be used before that is mended."
        if self.bad_rows:
            rows = "row" if self.bad_rows == 1 else "rows"
            return f"{read}: {self.bad_rows:,} {rows} ({_share(self.bad_rows, self.rows_read)}) cannot be used."
        return f"{read}: all can be used."

    def to_json(self) -> str:
        """The report as JSON text: `ok`, `fatal`, `rows_read`, `bad_rows`, `files`, `verdict`, `problems`."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain lists and dicts, the same as in `to_json`."""
        return {
            "ok": self.ok,
            "fatal": self.fatal,
            "rows_read": self.rows_read,
            "bad_rows": self.bad_rows,
            "files": list(self.files),
            "verdict": self.verdict,
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
        }

    def render(self, *, shown: int = 5) -> "RenderableType":
        """Blocks for a terminal of any width, one a problem with up to `shown` offenders, and the verdict below."""
        from peterrec.data.logs.report_text import render

        return render(self, shown=shown)

    def refusal(self, *, shown: int = 5, hint: str = "") -> DataError:
        """The error for a log that cannot be used: its verdict, the first problems, and `hint`."""
        wanted = ("fatal",) if self.fatal else ("bad_row",)
        serious = [problem for problem in self.problems if problem.severity in wanted]
        lines = [f"  {problem}" for problem in serious[:shown]]
        if len(serious) > shown:
            lines.append("  … `peterrec check` lists the others")
        return DataError("\n".join([self.verdict, *lines, *([hint] if hint else [])]))


_Key = tuple[Severity, str, str | None, str]


class Findings:
    """Gathers offenders rule by rule: the first twenty of each, and the count of all."""

    def __init__(self) -> None:
        self._found: dict[_Key, list[Offender]] = {}
        self._counts: dict[_Key, int] = {}

    def add(
        self,
        rule: str,
        severity: Severity,
        fix: str,
        *,
        offenders: Sequence[Offender] = (Offender(),),
        column: str | None = None,
        count: int | None = None,
    ) -> None:
        """Notes `count` offenders (by default those given) of a rule, of which `offenders` are the first."""
        key = (severity, rule, column, fix)
        shown = self._found.setdefault(key, [])
        shown += offenders[: SHOWN_OFFENDERS - len(shown)]
        self._counts[key] = self._counts.get(key, 0) + (len(offenders) if count is None else count)

    @property
    def fatal(self) -> bool:
        """Whether any fatal problem was found so far."""
        return any(severity == "fatal" for severity, *_ in self._found)

    def report(self, *, rows_read: int, bad_rows: int, files: Iterable[str]) -> CheckReport:
        """The report: fatal problems first, then bad rows, then notes."""
        problems: list[Problem] = []
        for key in sorted(self._found, key=lambda key: SEVERITIES.index(key[0])):  # stable: as they were found
            severity, rule, column, fix = key
            first, *others = (replace(o, value=None if o.value is None else clip(o.value)) for o in self._found[key])
            place = (first.file, rule, first.row, column, first.value)
            problems.append(Problem(*place, self._counts[key], severity, fix, tuple(others)))
        return CheckReport(tuple(problems), rows_read, bad_rows, tuple(files))


def _share(part: int, whole: int) -> str:
    """A share in percent that is 0 or 100 only if it is."""
    share = part / max(whole, 1)
    if 0 < share < 0.0001:
        return "less than 0.01%"
    return "more than 99.99%" if 0.9999 < share < 1 else f"{share:.2%}"


def clip(value: str) -> str:
    """The value on one line, unprintable characters escaped, at most 60 characters long."""
    short = value if len(value) <= _CLIP else value[: _CLIP - 1] + "…"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in short)
