"""How each file of a log is to be read: its columns and types found and judged before its rows are."""

import json
import os
from typing import cast

import pyarrow as pa

from peterrec.data.logs import sql
from peterrec.data.logs.columns import IdKind, LogColumns, id_kind, missing, refuse_types, time_kind
from peterrec.data.logs.files import LogFile
from peterrec.data.logs.parts import Part, stamp
from peterrec.data.logs.problems import Findings, Offender
from peterrec.data.logs.text_header import SEPARATORS, Header, read_header
from peterrec.data.logs.text_part import TextPart
from peterrec.data.logs.text_scan import TextFacts, scan

TABLE = "<table>"


def plan_file(file: LogFile, columns: LogColumns, findings: Findings) -> Part | None:
    """How to read a file; None, with fatal problems, if it cannot be read."""
    before = stamp(file.path)
    plan = {"parquet": _parquet, "arrow": _arrow, "delimited": _delimited, "jsonl": _json_lines}[file.format]
    part = plan(file, columns, findings)
    if part is not None:
        part.path, part.stamp = file.path, before
    return part


def plan_table(
    data: pa.Table | pa.RecordBatchReader, columns: LogColumns, findings: Findings, *, name: str = TABLE
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
    arrow: pa.Table | pa.RecordBatchReader | None = None,
) -> Part | None:
    names = tuple(schema.names)
    if missing(name, columns.names, names, findings, optional=columns.time):
        return None
    if refuse_types(name, schema, columns, findings):
        return None
    kinds: dict[str, IdKind] = {c: cast(IdKind, id_kind(schema.field(c).type)) for c in columns.ids}
    time = None if columns.time is None else time_kind(schema.field(columns.time).type)
    return Part(name, relation, sql.typed(relation, columns, time=time), names, kinds, arrow=arrow)


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
        fix = f"damaged ({reason})" if whole else "cut off: a Parquet file ends in PAR1, and this one does not"
        findings.add("broken_parquet", "fatal", f"{fix}; write or copy it again", offenders=[Offender(file.name)])
        return None
    if not rows:
        findings.add("no_rows_in_file", "note", "the file has no rows", offenders=[Offender(file.name)])
    relation = f"read_parquet([{sql.text(file.pattern)}], hive_partitioning = FALSE)"
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
    query = sql.delimited(text.relation(), columns, names=names, separator=header.separator)
    kinds: dict[str, IdKind] = {columns.user: "text", columns.item: "text"}
    return Part(file.name, text.relation(), query, header.names, kinds, text)


def _usable(file: LogFile, header: Header, columns: LogColumns, findings: Findings) -> bool:
    place = [Offender(file.name, header.lines)]
    if header.looks_like is not None:
        fix = f"looks separated by {SEPARATORS[header.looks_like]}, not by {SEPARATORS[header.separator]}; "
        fix += "name it .tsv" if header.looks_like == "\t" else "write it with commas"
        findings.add("wrong_separator", "fatal", fix, offenders=place)
        return False
    if header.is_data and not set(columns.names) <= set(header.names):
        row = Offender(file.name, header.lines, header.separator.join(header.names))
        names = ", ".join(columns.names)
        fix = f"no header: the first row looks like data; put the columns' names above it ({names})"
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
    query = sql.json_lines(text.relation(), columns)
    return Part(file.name, text.relation(), query, tuple(keys), kinds, text)


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
        fix = f"{kind}; make them all LF: `dos2unix FILE`" if facts.mixed_line_ends else f"{kind}; `mac2unix FILE`"
        findings.add("line_ends", "fatal", fix, offenders=place)
        return None
    if not facts.ends_with_newline:
        last = Offender(file.name, facts.lines, facts.last_line.decode("utf-8", errors="replace"))
        fix = "the last line does not end in a newline, so it may be cut off; check it"
        findings.add("cut_last_line", "note", fix, offenders=[last])
    if facts.first_nul_line is not None:
        fix = "the file holds NUL bytes; ids with them are bad rows"
        findings.add("nul_bytes", "note", fix, offenders=[Offender(file.name, facts.first_nul_line)], count=facts.nul)
    if facts.first_bad_utf8_line is not None:
        fix = "the file is not UTF-8 throughout; lines where that touches ids or times are bad rows"
        findings.add("encoding", "note", fix, offenders=[Offender(file.name, facts.first_bad_utf8_line)])
    return facts
