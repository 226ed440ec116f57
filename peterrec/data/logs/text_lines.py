"""From rows of a text file back to lines, where blank lines and line breaks inside values shift them."""

import csv
from collections.abc import Collection, Iterator, Sequence

from peterrec.data.logs.files import LogFile


def lines_at(file: LogFile, offsets: Sequence[int]) -> list[int]:
    """The 1-based lines in which the bytes at the sorted 0-based `offsets` stand.

    The engine may name the line break before a line; that counts as the next line that is not blank.
    """
    found: list[int] = []
    start = 0
    with file.open() as stream:
        for number, line in enumerate(stream, start=1):
            if len(found) == len(offsets):
                break
            content = line.rstrip(b"\r\n")
            while content and len(found) < len(offsets) and offsets[len(found)] < start + len(content):
                found.append(number)
            start += len(line)
    return found


def rows_at(
    file: LogFile, rows: Collection[int], *, separator: str | None, header: bool, rejected: Collection[int]
) -> dict[int, int]:
    """The 1-based lines on which the 0-based `rows` begin; records on the `rejected` lines are no rows."""
    found: dict[int, int] = {}
    row = -header
    for line in _records(file, separator):
        if line in rejected:
            continue
        if row in rows:
            found[row] = line
            if len(found) == len(rows):
                break
        row += 1
    return found


def _records(file: LogFile, separator: str | None) -> Iterator[int]:
    """The line on which each record begins; blank lines are no records."""
    with file.open() as stream:
        if separator is None:
            for number, line in enumerate(stream, start=1):
                if line.strip(b"\r\n"):
                    yield number
            return
        text = (line.decode("utf-8", errors="replace") for line in stream)
        reader = csv.reader(text, delimiter=separator)
        before = 0
        try:
            for record in reader:
                if record:
                    yield before + 1
                before = reader.line_num
        except csv.Error:  # a field beyond what csv reads: rows behind it keep no line number
            return
