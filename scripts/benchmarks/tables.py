"""Markdown tables, and the figures behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ABSENT = "–"


@dataclass(frozen=True)
class Table:
    """Rows of plain figures; `columns` says which are shown: key → (heading, format)."""

    title: str
    columns: Mapping[str, tuple[str, str]]
    rows: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default_factory=tuple)

    def markdown(self) -> str:
        """The table with its title above and its notes below."""
        lines = [f"### {self.title}", ""]
        if self.rows:
            lines.append(_line(heading for heading, _ in self.columns.values()))
            numeric = [any(isinstance(row.get(key), int | float) for row in self.rows) for key in self.columns]
            lines.append(_line("---:" if right else "---" for right in numeric))
            lines += [_line(_shown(row.get(key), form) for key, (_, form) in self.columns.items()) for row in self.rows]
            lines.append("")
        for note in self.notes:
            lines += [note, ""]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything that is known, not only what is shown."""
        return {"title": self.title, "rows": [dict(row) for row in self.rows], "notes": list(self.notes)}


def megabytes(size: float | None) -> float | None:
    """Bytes in units of 10⁶."""
    return None if size is None else size / 1e6


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: Any, form: str) -> str:
    if value is None:
        return ABSENT
    return format(value, form) if isinstance(value, int | float) else str(value)
