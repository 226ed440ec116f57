"""The names of a log's columns, for a hint before it is read."""

import csv
import json
import os
import zlib
from collections.abc import Iterable, Sequence

import pyarrow as pa

from peterrec.data.logs.files import LogFile, find_files
from peterrec.data.logs.problems import Findings
from peterrec.data.logs.text_header import read_header


def column_names(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, wanted: Sequence[str] = ()
) -> tuple[str, ...]:
    """The columns of the first file that `paths` name; none where it cannot be read, which reading it will report.

    `wanted` are columns that are there, which tells the separator of a text file.
    """
    for file in find_files(paths, Findings())[:1]:
        try:
            return _names(file, wanted)
        except (OSError, EOFError, ValueError, zlib.error, csv.Error, pa.ArrowException):
            break
    return ()


def _names(file: LogFile, wanted: Sequence[str]) -> tuple[str, ...]:
    if file.format == "parquet":
        import pyarrow.parquet as pq

        return tuple(pq.read_schema(file.path).names)
    if file.format == "arrow":
        with pa.memory_map(file.name) as source:
            try:
                return tuple(pa.ipc.open_file(source).schema.names)
            except pa.ArrowInvalid:  # what `datasets` writes is a stream
                source.seek(0)
                return tuple(pa.ipc.open_stream(source).schema.names)
    if file.format == "jsonl":
        with file.open() as stream:
            record = json.loads(stream.readline())
        return tuple(record) if isinstance(record, dict) else ()
    header = read_header(file, wanted)
    return () if header.is_data else header.names
