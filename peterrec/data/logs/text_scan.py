"""What a text file shows before it is parsed: line ends, blank lines, NUL bytes, encoding, a cut last line.

The engine that parses accepts or silently loses some of this; its result is held against these counts.
"""

import codecs
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from peterrec.data.logs.files import LogFile

_CHUNK = 4 << 20
_BLANK = re.compile(rb"\n(?=\r?\n)")
_BOM = codecs.BOM_UTF8


@dataclass(frozen=True)
class TextFacts:
    """Counts of one file, decompressed; lines are 1-based, and `lines` counts a last line without newline."""

    size: int
    lines: int
    leading_blank: int
    blank: int
    crlf: int
    lone_cr: int
    ends_with_newline: bool
    nul: int
    first_nul_line: int | None
    first_bad_utf8_line: int | None
    last_line: bytes
    error: str | None = None  # the gzip stream is damaged or cut off

    @property
    def mixed_line_ends(self) -> bool:
        """Whether some lines end in CR LF and others in LF."""
        newlines = self.lines - (not self.ends_with_newline)
        return 0 < self.crlf < newlines


def chunks(file: LogFile) -> Iterator[bytes]:
    """The content, four MiB at a time."""
    with file.open() as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def scan(file: LogFile) -> TextFacts:
    """Reads the whole file once, at the speed of the disk."""
    size = newlines = blank = crlf = cr = nul = leading_blank = 0
    first_nul_line = first_bad_line = None
    tail = last_line = b""
    error = None
    at_start = True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chunks(file):
            if at_start:
                body = (chunk[len(_BOM) :] if size == 0 and chunk.startswith(_BOM) else chunk).lstrip(b"\r\n")
                leading_blank += chunk[: len(chunk) - len(body)].count(b"\n")
                at_start = not body
            if first_bad_line is None and not (chunk.isascii() and not decoder.getstate()[0]):
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as bad:
                    # `bad.object` begins with bytes held back from the last chunk; none is a newline.
                    first_bad_line = newlines + bad.object[: bad.start].count(b"\n") + 1
            if first_nul_line is None and b"\0" in chunk:
                first_nul_line = newlines + chunk[: chunk.index(b"\0")].count(b"\n") + 1
            nul += chunk.count(b"\0")
            size += len(chunk)
            newlines += chunk.count(b"\n")
            # Two bytes are carried over, so that a pattern across the edge is seen, and seen once.
            window = tail + chunk
            if b"\r" in window:
                crlf += window.count(b"\r\n") - tail.count(b"\r\n")
                cr += chunk.count(b"\r")
            if b"\n\n" in window or b"\n\r\n" in window:
                blank += sum(match.start() < len(window) - 2 for match in _BLANK.finditer(window))
            tail = window[-2:]
            cut = chunk.rfind(b"\n")
            last_line = last_line + chunk if cut < 0 else chunk[cut + 1 :]
            last_line = last_line[:4096]
        if first_bad_line is None:
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                first_bad_line = newlines + 1
    except (EOFError, gzip.BadGzipFile, zlib.error) as problem:
        error = str(problem)
    blank += len(_BLANK.findall(tail))
    ends = size > 0 and tail.endswith(b"\n")
    return TextFacts(
        size=size,
        lines=newlines + (size > 0 and not ends),
        leading_blank=leading_blank,
        blank=blank + (leading_blank > 0),
        crlf=crlf,
        lone_cr=cr - crlf,
        ends_with_newline=ends,
        nul=nul,
        first_nul_line=first_nul_line,
        first_bad_utf8_line=first_bad_line,
        last_line=last_line,
        error=error,
    )
