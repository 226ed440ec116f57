"""The temporary database that a log is read into: bounded memory, spilling to disk, no network."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peterrec.data.logs.sql import text
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def temporary_database(
    memory_limit: str, threads: int | None, temp_directory: Path | None
) -> "Iterator[DuckDBPyConnection]":
    """A DuckDB database in a temporary folder that vanishes afterwards; rows keep their order, times are UTC.

    Raises SettingsError for a memory limit that is none.
    """
    import duckdb

    with (
        tempfile.TemporaryDirectory(prefix="peterrec-", dir=temp_directory) as folder,
        duckdb.connect(str(Path(folder) / "log.duckdb")) as con,
    ):
        try:
            con.execute(f"SET memory_limit = {text(memory_limit)}")
        except duckdb.Error:
            raise SettingsError(f"memory_limit is {memory_limit!r}; write it as 500MB or 2GB.") from None
        if threads is not None:
            con.execute(f"SET threads = {int(threads)}")
        con.execute(f"SET temp_directory = {text(Path(folder) / 'spill')}")
        con.execute("SET TimeZone = 'UTC'")
        con.execute("SET preserve_insertion_order = TRUE")
        con.execute("SET enable_progress_bar = FALSE")
        con.execute("SET autoinstall_known_extensions = FALSE")  # no network behind the user's back
        yield con
