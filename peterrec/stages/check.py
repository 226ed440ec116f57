"""`peterrec check`: every problem of a log and its users table, found before anything is computed."""

import os
from pathlib import Path

import pyarrow as pa

from peterrec.data.logs.interactions import CheckReport, LogColumns, LogSource, inspect_log
from peterrec.data.logs.labels import read_labels


def run(
    paths: LogSource,
    *,
    columns: LogColumns,
    users: str | os.PathLike[str] | pa.Table | None = None,
    users_column: str = "user",
    memory_limit: str = "2GB",
    threads: int | None = None,
    temp_directory: Path | None = None,
) -> CheckReport:
    """Reads all of a log, and of a users table if there is one; reports every problem and writes nothing.

    `report.ok` says whether all rows can be used; `report.to_json()` and `report.render()` show it. Raises
    ResourceError if memory or disk gives out.
    """
    with inspect_log(paths, columns, memory_limit=memory_limit, threads=threads, temp_directory=temp_directory) as log:
        if users is None:
            return log.report
        # Without a readable log nobody is known, and everybody would be reported as absent from it.
        known = None
        if not log.report.fatal:
            known = log.con.sql("SELECT DISTINCT user FROM events").to_arrow_table()["user"]
        _, labels = read_labels(users, user=users_column, known_users=known)
        return log.report + labels
