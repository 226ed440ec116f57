"""Readers of public formats, one a file; a new one is a file and a line in `READERS`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from peterrec.data.logs.columns import LogColumns
from peterrec.data.sources import huggingface, movielens, peterrec_text, tenrec
from peterrec.data.sources.source import Rows, Source
from peterrec.errors import SettingsError, did_you_mean

__all__ = ["READERS", "Reader", "Rows", "Source", "detect", "load"]


class Reader(NamedTuple):
    """`matches(path)` looks at names and first lines only; `load(path, work=...)` reads."""

    matches: Callable[[str | Path], bool]
    load: Callable[..., Source]


READERS = {
    "movielens": Reader(movielens.matches, movielens.load),
    "tenrec": Reader(tenrec.matches, tenrec.load),
    "peterrec_text": Reader(peterrec_text.matches, peterrec_text.load),
    "huggingface": Reader(huggingface.matches, huggingface.load),
}


def detect(path: str | Path) -> str | None:
    """The name of the reader that knows `path`; None for an ordinary log."""
    return next((name for name, reader in READERS.items() if reader.matches(path)), None)


def load(
    path: str | Path,
    *,
    reader: str | None = None,
    columns: LogColumns | None = None,
    work: Path | None = None,
) -> Source:
    """Read `path` with the named reader, or the one that knows it.

    Converted rows go to Parquet files in the folder `work` if given, else they stay in memory. `columns`
    are for Hugging Face data sets alone: the other formats have their own. Raises SettingsError for an
    unknown format and for columns where there is no choice, DataError for malformed rows.
    """
    name = reader or detect(path)
    if name is None:
        raise SettingsError(f"{path}: none of the known public formats ({', '.join(READERS)}).")
    if name not in READERS:
        raise SettingsError(f"unknown format {name!r}. {did_you_mean(name, READERS)}")
    if name == "huggingface":
        return huggingface.load(path, columns=columns, work=work)
    if columns is not None:
        raise SettingsError(f"{path}: the format {name} has columns of its own; leave out --user, --item and --time.")
    return READERS[name].load(path, work=work)
