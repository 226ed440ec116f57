"""Lists of items from files: one id a line in text, or a column of a table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.logs.column_names import column_names
from peterrec.data.logs.files import LogFile, find_files
from peterrec.data.logs.interactions import LogColumns, open_log
from peterrec.data.logs.problems import Findings
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError


def read_item_list(path: Path, *, column: str = "item", option: str, memory_limit: str = "2GB") -> pa.StringArray:
    """The distinct item ids in a file, in order of appearance.

    A `.txt` file (also `.gz`) has one id a line and no header; blank lines are skipped. Any other file that a log may
    be is a table with the ids in `column`, else in the column `item`, else in its only one. Raises SettingsError,
    naming `option`, where there is no such file, DataError for one that cannot be read or has bad rows.
    """
    if not path.exists():
        raise SettingsError(f"{option} {path}: there is no such file. Check the path.")
    findings = Findings()
    files = find_files([path], findings)
    if len(files) == 1 and ".txt" in [suffix.lower() for suffix in path.suffixes[-2:]]:
        return _lines(files[0])
    name = _column(path, column)
    with open_log(path, LogColumns(user=name, item=name, time=None), memory_limit=memory_limit) as log:
        query = "SELECT item FROM events GROUP BY item ORDER BY min(position)"
        items = log.con.sql(query).to_arrow_table()["item"].combine_chunks()
    return items if isinstance(items, pa.StringArray) else pa.concat_arrays(items.chunks).cast(pa.string())


def known_rows(items: pa.StringArray, vocabulary: Vocabulary) -> tuple[NDArray[np.int64], int]:
    """The rows of the `items` that the vocabulary holds, rising, and how many it does not hold."""
    rows = vocabulary.rows(items)
    known = rows[rows >= 0]
    return np.sort(known.astype(np.int64)), len(rows) - len(known)


def _column(path: Path, wanted: str) -> str:
    for name in (wanted, "item"):
        if name in column_names(path, wanted=[name]):
            return name
    names = column_names(path)
    return names[0] if len(names) == 1 else wanted  # which the reader will say is missing


def _lines(file: LogFile) -> pa.StringArray:
    ids: dict[str, None] = {}
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            raw = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            try:
                text = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as problem:
                raise DataError(
                    f"{file.name}: line {number} is not UTF-8 ({problem.reason}); convert the file, e.g. "
                    "`iconv -f LATIN1 -t UTF-8`."
                ) from None
            if text.strip():
                ids[text] = None
    if not ids:
        raise DataError(f"{file.name}: there are no items in it; write one id a line.")
    return pa.array(list(ids), pa.string())
