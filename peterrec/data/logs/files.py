"""The files of a log: paths, folders and globs in order, and each file's format."""

import glob
import gzip
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

from peterrec.data.logs.problems import Findings, Offender
from peterrec.errors import did_you_mean

Format = Literal["parquet", "arrow", "delimited", "jsonl"]

_FORMATS: dict[str, tuple[Format, str | None]] = {
    ".parquet": ("parquet", None),
    ".pq": ("parquet", None),
    ".arrow": ("arrow", None),
    ".feather": ("arrow", None),
    ".csv": ("delimited", ","),
    ".tsv": ("delimited", "\t"),
    ".tab": ("delimited", "\t"),
    ".txt": ("delimited", None),
    ".dat": ("delimited", None),
    ".jsonl": ("jsonl", None),
    ".ndjson": ("jsonl", None),
    ".json": ("jsonl", None),
}
# What a folder is searched for; .txt and .dat are more often a README than a part of a log.
_FOLDER_SUFFIXES = frozenset(_FORMATS) - {".txt", ".dat", ".json"}
_FOREIGN = {  # first bytes of what we do not read
    b"\x28\xb5\x2f\xfd": "zstd-compressed",
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"BZh": "bzip2-compressed",
    b"\xfd7zXZ": "xz-compressed",
    b"SQLite format 3": "an SQLite database",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"\x80\x04\x95": "a Python pickle",
}
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
READABLE = "Parquet, CSV, TSV, JSON lines (.jsonl, each also .gz) and Arrow files can be read"


@dataclass(frozen=True)
class LogFile:
    """One file: its format, whether it is gzipped, and the separator that its name promises (text)."""

    path: Path
    format: Format
    gzipped: bool = False
    separator: str | None = None

    @property
    def name(self) -> str:
        """The path as the user gave it."""
        return str(self.path)

    @property
    def pattern(self) -> str:
        """The path for functions of the engine, which take brackets and stars for patterns."""
        return glob.escape(self.name)

    def open(self) -> BinaryIO:
        """The content as bytes, decompressed."""
        if self.gzipped:
            return cast(BinaryIO, gzip.open(self.path, "rb"))
        return self.path.open("rb")


def find_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], findings: Findings) -> list[LogFile]:
    """The files that `paths` name, in the order given; folders and globs in sorted order.

    What cannot be read becomes a fatal problem; a file named twice is read once and noted.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    if not given:
        findings.add("no_files", "fatal", "no file was named; name the log's files, folders or globs")
    found: dict[Path, LogFile] = {}
    for path in (p for text in given for p in _expand(os.fspath(text), findings)):
        same = path.resolve()
        if same in found:
            fix = "named twice; it was read once"
            findings.add("same_file_twice", "note", fix, offenders=[Offender(str(path))])
            continue
        file = _identify(path, findings)
        if file is not None:
            found[same] = file
    return list(found.values())


def _expand(text: str, findings: Findings) -> list[Path]:
    path = Path(text)
    if os.path.lexists(path):  # before globbing: a file may be called "a[1].csv"
        return _folder(path, findings) if path.is_dir() else [path]
    if glob.has_magic(text):
        matches = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        files = [match for match in matches if not match.is_dir()]
        files = files or [file for match in matches for file in _folder(match, findings)]
        if not matches:
            fix = "this pattern matches no file; check the folder, and quote the pattern in a shell"
            findings.add("empty_glob", "fatal", fix, offenders=[Offender(text)])
        return files
    siblings = sorted(p.name for p in path.parent.iterdir())[:200] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, siblings).partition(" Known:")[0] if siblings else ""
    fix = "there is no such file or folder. " + (hint if hint.startswith("Did") else "Check the path.")
    findings.add("no_such_file", "fatal", fix, offenders=[Offender(text)])
    return []


def _folder(folder: Path, findings: Findings) -> list[Path]:
    """The files of known formats below a folder (links to folders are not followed), in sorted order."""
    known: list[Path] = []
    others: list[Path] = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in names:
            if name.startswith((".", "_")):  # _SUCCESS, ._copy, .crc
                continue
            path = Path(root) / name
            (known if _suffix(path)[0] in _FOLDER_SUFFIXES else others).append(path)
    if not known:
        fix = f"no file in this folder is part of a log; {READABLE}"
        findings.add("empty_folder", "fatal", fix, offenders=[Offender(str(folder))])
    elif others:
        fix = "not read, since its name is not that of a log; name the file itself if it is one"
        findings.add("file_left_out", "note", fix, offenders=[Offender(str(p)) for p in sorted(others)])
    return sorted(known)


def _suffix(path: Path) -> tuple[str, bool]:
    """The last suffix, lower case, and whether `.gz` follows it."""
    name = path.name.lower()
    gzipped = name.endswith(".gz")
    return Path(name.removesuffix(".gz")).suffix, gzipped


def _identify(path: Path, findings: Findings) -> LogFile | None:
    """Tells the format from the name and the first bytes, which win; None and a problem if it is no log."""

    def refuse(rule: str, fix: str) -> None:
        findings.add(rule, "fatal", fix, offenders=[Offender(str(path))])

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return refuse("not_a_file", "not a regular file (a pipe or device?); save the data as a file first")
        with path.open("rb") as stream:
            head = stream.read(4096)
        gzipped = head.startswith(b"\x1f\x8b")
        if gzipped:
            with gzip.open(path, "rb") as stream:
                head = stream.read(4096)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        return refuse("broken_gzip", f"the gzip data are damaged or cut off ({error}); copy the file again")
    except OSError as error:
        return refuse("unreadable", f"cannot be opened ({error.strerror or error}); check the path and rights")

    suffix, named_gzipped = _suffix(path)
    if named_gzipped and not gzipped and head:
        return refuse("broken_gzip", "named .gz, but it is not gzip data; copy it again or take .gz off its name")
    if not head:
        return refuse("empty_file", "the file is empty (0 bytes of data); write it again or leave it out")
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            return refuse("foreign_format", f"this is {what}; {READABLE}, so convert it first")
    fmt, separator = _FORMATS.get(suffix, (None, None))
    if head.startswith(b"PAR1"):
        if gzipped:
            return refuse("foreign_format", "a Parquet file inside gzip; decompress it with gunzip first")
        return LogFile(path, "parquet")
    if fmt == "parquet":
        return refuse("not_parquet", "not a Parquet file (it does not begin with PAR1); write it again")
    if fmt == "arrow":
        if gzipped:
            return refuse("foreign_format", "an Arrow file inside gzip; decompress it with gunzip first")
        return LogFile(path, "arrow")
    if head.startswith(_UTF16) or (len(head) >= 8 and head.count(b"\0") * 5 > len(head)):
        fix = "looks like UTF-16 or binary data, not UTF-8 text; convert it, e.g. `iconv -f UTF-16 -t UTF-8`"
        return refuse("not_utf8", fix)
    first = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first == b"{":
        fmt = "jsonl"
    elif first == b"[" and fmt in ("jsonl", None):
        fix = "one JSON array; write one object a line instead, e.g. `jq -c '.[]' FILE > FILE.jsonl`"
        return refuse("json_array", fix)
    elif fmt == "jsonl":
        return refuse("not_json", "not JSON lines: the first line does not begin with '{'; one object a line")
    return LogFile(path, fmt or "delimited", gzipped, separator)
