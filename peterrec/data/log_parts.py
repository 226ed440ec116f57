"""The parts of a log, files or one table, read one after another into the raw events in order."""

import bisect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from peterrec.data import log_sql
from peterrec.data.log_columns import IdKind, LogColumns, id_kind, missing, refuse_types, time_kind
from peterrec.data.log_files import LogFile
from peterrec.data.problems import Findings, Offender
from peterrec.data.text_header import SEPARATORS, Header, read_header
from peterrec.data.text_part import TextPart
from peterrec.data.text_scan import TextFacts, scan
from peterrec.errors import ResourceError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TABLE = "<table>"


@dataclass
class Part:
    """One file or table: the `query` that reads it, what ids it holds, and once read, where its rows stand."""

    name: str
    query: str
    names: tuple[str, ...]  # all its columns
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

    def places(self, positions: Sequence[int]) -> list[tuple[str, int]]:
        """File and 1-based row, or line of a text file, of each position."""
        starts = [part.start for part in self.read]
        owners = [self.read[bisect.bisect_right(starts, position) - 1] for position in positions]
        lines: dict[int, int] = {}
        for part in {id(p): p for p in owners if p.text is not None}.values():
            inside = {
                position - part.start for position, o in zip(positions, owners, strict=True) if o is part
            }
            assert part.text is not None
            lines |= {part.start + row: line for row, line in part.text.lines(inside).items()}
        return [
            (owner.name, lines.get(position, position - owner.start + 1))
            for position, owner in zip(positions, owners, strict=True)
        ]

    def add(self, con: "DuckDBPyConnection", part: Part, findings: Findings) -> None:
        """Reads one part to the end of the raw events; if that fails it becomes a fatal problem.

        Raises ResourceError if memory or disk gives out.
        """
        import duckdb

        if part.arrow is not None:
            con.register("arrow_part", part.arrow)
        try:
            (count,) = con.execute(f"INSERT INTO {log_sql.RAW} {part.query}").fetchone() or (0,)
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
        raise ResourceError(
            f"the memory limit does not suffice to read the log; raise it ({message})."
        ) from error
    if any(sign in message for sign in ("No space left", "Disk quota", "File too large")):
        raise ResourceError(
            f"the disk is full; the log is sorted in a temporary folder, so free space or set TMPDIR ({message})."
        ) from error


def stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def plan_file(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    """How to read a file; None, with fatal problems, if it cannot be read."""
    before = stamp(file.path)
    plan = {"parquet": _parquet, "arrow": _arrow, "delimited": _delimited, "jsonl": _json_lines}[file.format]
    part = plan(file, columns, findings)
    if part is not None:
        part.path, part.stamp = file.path, before
    return part


def plan_table(
    data: "pa.Table | pa.RecordBatchReader", columns: LogColumns, findings: Findings, *, name: str = TABLE
) -> Part | None:
    """How to read rows that are in memory or stream by."""
    return _typed(name, data.schema, "arrow_part", columns, findings, arrow=data)


def _typed(
    name: str,
    schema: pa.Schema,
    relation: str,
    columns: LogColumns,
    findings: Findings,
    *,
    arrow: "pa.Table | pa.RecordBatchReader | None" = None,
) -> Part | None:
    names = tuple(schema.names)
    if missing(name, columns.names, names, findings, optional=columns.time):
        return None
    if refuse_types(name, schema, columns, findings):
        return None
    kinds = {column: id_kind(schema.field(column).type) or "text" for column in (columns.user, columns.item)}
    time = None if columns.time is None else time_kind(schema.field(columns.time).type)
    return Part(name, log_sql.typed(relation, columns, time=time), names, kinds, arrow=arrow)


def _parquet(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        with file.path.open("rb") as stream:
            stream.seek(-4, os.SEEK_END)
            whole = stream.read() == b"PAR1"
        reason = str(error).splitlines()[0]
        fix = (
            f"damaged ({reason})" if whole else "cut off: a Parquet file ends in PAR1, and this one does not"
        )
        findings.add(
            "broken_parquet", "fatal", f"{fix}; write or copy it again", offenders=[Offender(file.name)]
        )
        return None
    if not rows:
        findings.add("no_rows_in_file", "note", "the file has no rows", offenders=[Offender(file.name)])
    relation = f"read_parquet([{log_sql.text(file.pattern)}], hive_partitioning = FALSE)"
    return _typed(file.name, schema, relation, columns, findings)


def _arrow(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    try:
        source = pa.memory_map(file.name)
        try:
            batches = pa.ipc.open_file(source)
            reader = pa.RecordBatchReader.from_batches(
                batches.schema, (batches.get_batch(n) for n in range(batches.num_record_batches))
            )
        except pa.ArrowInvalid:  # what `datasets` writes is a stream
            source.seek(0)
            reader = pa.ipc.open_stream(source)
    except (pa.ArrowException, OSError) as error:
        fix = f"not a whole Arrow file ({str(error).splitlines()[0]}); write it again"
        findings.add("broken_arrow", "fatal", fix, offenders=[Offender(file.name)])
        return None
    return plan_table(reader, columns, findings, name=file.name)


def _delimited(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    facts = _facts(file, findings)
    if facts is None:
        return None
    header = read_header(file, columns.names)
    if not _usable(file, header, columns, findings):
        return None
    if facts.lines - facts.blank <= header.lines:
        fix = "the file holds a header and no rows"
        findings.add("header_only", "note", fix, offenders=[Offender(file.name)])
    text = TextPart(file, facts, header.separator, len(header.names), header.lines)
    names = {name: f"c{number}" for number, name in enumerate(header.names)}
    kinds: dict[str, IdKind] = {columns.user: "text", columns.item: "text"}
    return Part(
        file.name, log_sql.delimited(text.relation(), columns, names=names), header.names, kinds, text
    )


def _usable(file: LogFile, header: Header, columns: LogColumns, findings: Findings) -> bool:
    place = [Offender(file.name, header.lines)]
    if header.looks_like is not None:
        fix = f"looks separated by {SEPARATORS[header.looks_like]}, not by {SEPARATORS[header.separator]}; name it "
        fix += (
            ".tsv if it holds tabs, or write it with commas"
            if header.looks_like == "\t"
            else "or write it with commas"
        )
        findings.add("wrong_separator", "fatal", fix, offenders=place)
        return False
    if header.is_data and not set(columns.names) <= set(header.names):
        row = Offender(file.name, header.lines, header.separator.join(header.names))
        fix = f"no header: the first row looks like data; put the columns' names above it ({', '.join(columns.names)})"
        findings.add("no_header", "fatal", fix, offenders=[row])
        return False
    if missing(file.name, columns.names, header.names, findings, optional=columns.time):
        return False
    if header.guessed:
        fix = f"separated by {SEPARATORS[header.separator]}, though its name says otherwise; read so"
        findings.add("separator", "note", fix, offenders=place)
    others = [name for name in header.duplicated if name not in columns.names]
    if others:
        fix = f"columns that are not used stand more than once: {', '.join(map(repr, others[:5]))}"
        findings.add("duplicated_other_column", "note", fix, offenders=place)
    return True


def _json_lines(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    import json

    facts = _facts(file, findings)
    if facts is None:
        return None
    keys: dict[str, None] = {}
    with file.open() as stream:
        for _, line in zip(range(100), stream, strict=False):
            try:
                record = json.loads(line)
            except ValueError:  # reported with its line when the rows are read
                continue
            keys |= dict.fromkeys(record if isinstance(record, dict) else ())
    if keys and missing(file.name, columns.names, tuple(keys), findings, optional=columns.time):
        return None
    text = TextPart(file, facts)
    kinds: dict[str, IdKind] = {columns.user: "text", columns.item: "text"}
    return Part(file.name, log_sql.json_lines(text.relation(), columns), tuple(keys), kinds, text)


def _facts(file: LogFile, findings: Findings) -> TextFacts | None:
    facts = scan(file)
    place = [Offender(file.name)]
    if facts.error is not None:
        fix = f"the gzip data are damaged or cut off ({facts.error}); copy the file again"
        findings.add("broken_gzip", "fatal", fix, offenders=place)
        return None
    if facts.lines == facts.blank:
        findings.add("empty_file", "fatal", "the file holds nothing but blank lines", offenders=place)
        return None
    if facts.mixed_line_ends or (facts.lone_cr and facts.lines == 1):
        kind = "some lines end in CR LF, others in LF" if facts.mixed_line_ends else "lines end in CR alone"
        fix = (
            f"{kind}; make them all LF: `dos2unix FILE`"
            if facts.mixed_line_ends
            else f"{kind}; `mac2unix FILE`"
        )
        findings.add("line_ends", "fatal", fix, offenders=place)
        return None
    if not facts.ends_with_newline:
        last = Offender(file.name, facts.lines, facts.last_line.decode("utf-8", errors="replace"))
        fix = "the last line does not end in a newline, so it may be cut off; check it"
        findings.add("cut_last_line", "note", fix, offenders=[last])
    if facts.first_nul_line is not None:
        fix = "the file holds NUL bytes; ids with them are bad rows"
        findings.add(
            "nul_bytes", "note", fix, offenders=[Offender(file.name, facts.first_nul_line)], count=facts.nul
        )
    if facts.first_bad_utf8_line is not None:
        fix = "the file is not UTF-8 throughout; lines where that touches ids or times are bad rows"
        findings.add("encoding", "note", fix, offenders=[Offender(file.name, facts.first_bad_utf8_line)])
    return facts


def _reason(error: Exception, part: Part) -> str:
    reason = str(error).splitlines()[0].split(": ", 1)[-1]
    if part.text is not None and part.text.facts.lone_cr:
        return "carriage returns stand alone inside lines; make all line ends LF: `mac2unix FILE`"
    return f"the content cannot be read ({reason}); write or copy the file again"
