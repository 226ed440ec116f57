"""The parts of a log, files or one table, read one after another into the raw events in order."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from peterrec.data.logs.columns import IdKind
from peterrec.data.logs.problems import Findings, Offender
from peterrec.data.logs.sql import RAW
from peterrec.data.logs.text_part import TextPart
from peterrec.errors import ResourceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@dataclass
class Part:
    """One file or table: the `query` that reads it, what ids it holds, and once read where its rows are."""

    name: str
    relation: str  # SQL of all its columns: by name, or `c0`, `c1`, … or `line` of a text file
    query: str  # SQL of what the raw events take of it
    names: tuple[str, ...]
    kinds: dict[str, IdKind]
    text: TextPart | None = None
    arrow: "pa.Table | pa.RecordBatchReader | None" = None
    stamp: tuple[int, int] | None = None
    path: Path | None = None
    start: int = 0
    rows: int = 0


@dataclass
class Parts:
    """All parts that were read; knows the file and row (or line) of each position."""

    read: list[Part] = field(default_factory=list)
    rows: int = 0
    rejected: int = 0

    @property
    def number_columns(self) -> set[str]:
        """The id columns that hold integers or UUIDs in every part."""
        return {c for part in self.read[:1] for c in part.kinds if all(p.kinds[c] != "text" for p in self.read)}

    def places(self, positions: Sequence[int]) -> list[tuple[str, int]]:
        """File and 1-based row, or line of a text file, of each position."""
        starts = [part.start for part in self.read]
        owners = [self.read[bisect.bisect_right(starts, position) - 1] for position in positions]
        lines: dict[int, int] = {}
        for part in {id(p): p for p in owners if p.text is not None}.values():
            inside = {position - part.start for position, o in zip(positions, owners, strict=True) if o is part}
            assert part.text is not None
            lines |= {part.start + row: line for row, line in part.text.lines(inside).items()}
        return [
            (owner.name, lines.get(position, position - owner.start + 1))
            for position, owner in zip(positions, owners, strict=True)
        ]

    def add(self, con: "DuckDBPyConnection", part: Part, findings: Findings, *, statement: str | None = None) -> None:
        """Reads one part to the end of the raw events, or by `statement`; if that fails, a fatal problem.

        Raises ResourceError if memory or disk gives out.
        """
        import duckdb

        if part.arrow is not None:
            con.register("arrow_part", part.arrow)
        try:
            (count,) = con.execute(statement or f"INSERT INTO {RAW} {part.query}").fetchone() or (0,)
        except duckdb.Error as error:
            refuse_lack_of_room(error)
            findings.add("unreadable_content", "fatal", _reason(error, part), offenders=[Offender(part.name)])
            return
        part.start, part.rows = self.rows, count
        self.rows += count
        self.read.append(part)
        if part.text is not None:
            self.rejected += part.text.account(con, accepted=count, findings=findings)
        if part.path is not None and part.stamp != stamp(part.path):
            fix = "the file changed while it was read; wait until it is written"
            findings.add("changing_file", "fatal", fix, offenders=[Offender(part.name)])


def refuse_lack_of_room(error: Exception) -> None:
    """Raises ResourceError if an error of the engine says that memory or disk gave out."""
    import duckdb

    message = str(error).splitlines()[0]
    if isinstance(error, duckdb.OutOfMemoryException):
        raise ResourceError(f"the memory limit does not suffice to read the log; raise it ({message}).") from error
    if any(sign in message for sign in ("No space left", "Disk quota", "File too large")):
        raise ResourceError(
            f"the disk of the temporary folder is full; free space there or set TMPDIR to another ({message})."
        ) from error


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _reason(error: Exception, part: Part) -> str:
    reason = str(error).splitlines()[0].split(": ", 1)[-1]
    if part.text is not None and part.text.facts.lone_cr:
        return "carriage returns stand alone inside lines; make all line ends LF: `mac2unix FILE`"
    return f"the content cannot be read ({reason}); write or copy the file again"
