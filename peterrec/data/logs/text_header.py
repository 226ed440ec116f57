"""The header of delimited text: which separator it has, which columns, and whether it is a header at all."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from peterrec.data.logs.files import LogFile

SEPARATORS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "vertical bar"}
_HEAD = 1 << 20  # bytes
_SAMPLE = 50  # lines that a separator is tried on
_NUMBER_OR_DATE = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|\d{4}-\d{2}-\d{2}([T ].*)?")


@dataclass(frozen=True)
class Header:
    """The columns of a delimited file: `lines` it spans, `separator`, and what else must be said about it.

    `guessed` says that the separator is not the one that the file's name promises. `looks_like` is the
    separator that the file seems to have, where the columns were not found with any.
    """

    names: tuple[str, ...]
    separator: str
    lines: int
    guessed: bool = False
    looks_like: str | None = None

    @property
    def is_data(self) -> bool:
        """Whether the first row looks like data: a number, a date or nothing stands where a name should."""
        return any(_NUMBER_OR_DATE.fullmatch(name.strip()) for name in self.names)

    @property
    def duplicated(self) -> list[str]:
        """Names that stand more than once, in order."""
        return list(dict.fromkeys(name for name in self.names if self.names.count(name) > 1))


def read_header(file: LogFile, wanted: Sequence[str]) -> Header:
    """The header of a delimited UTF-8 file, read with the separator that yields the `wanted` columns.

    A separator other than the named one is taken only if it yields every wanted column and as many fields in
    each of the first fifty lines.
    """
    with file.open() as stream:
        raw = stream.read(_HEAD)
    complete = raw if len(raw) < _HEAD else raw[: raw.rfind(b"\n") + 1] or raw
    text = complete.decode("utf-8-sig", errors="replace").lstrip("\r\n")
    default = file.separator or ","
    named = _parse(text, default)
    if set(wanted) <= set(named.names):
        return named
    for separator in SEPARATORS:
        other = _parse(text, separator)
        if set(wanted) <= set(other.names) and len(other.names) > 1 and _uniform(text, separator):
            guessed = file.separator is not None
            return Header(other.names, separator, other.lines, guessed=guessed)
    fields = {s: len(_parse(text, s).names) for s in SEPARATORS if s != default}
    widest = max(fields, key=lambda s: fields[s])
    if fields[widest] > 1 and (len(named.names) == 1 or (fields[widest] > len(named.names) > 1)):
        plausible = len(named.names) == 1 or not _uniform(text, default)
        if plausible and _uniform(text, widest):
            other = _parse(text, widest)
            if file.separator is None:  # the name promises nothing, so the widest is the best reading
                return Header(other.names, widest, other.lines)
            return Header(named.names, default, named.lines, looks_like=widest)
    return named


def _parse(text: str, separator: str) -> Header:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        names = next(reader, [])
    except csv.Error:  # a field beyond csv's limit, a bare CR: no header in any case
        names = text.split("\n", 1)[0].split(separator)
    return Header(tuple(names), separator, max(reader.line_num, 1))


def _uniform(text: str, separator: str) -> bool:
    """Whether the first lines all have the same number of fields, more than one."""
    counts: set[int] = set()
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for _, row in zip(range(_SAMPLE), reader, strict=False):
            if row:
                counts.add(len(row))
    except csv.Error:
        return False
    return len(counts) == 1 and counts.pop() > 1
