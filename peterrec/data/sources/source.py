"""What a reader of a public format hands to the preparation of a log."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from peterrec.data.logs.columns import LogColumns

Rows = tuple[Path, ...] | pa.Table  # files that can be read as a log, or the rows themselves


@dataclass(frozen=True)
class Source:
    """A log with what came beside it: users and their attributes, items and their titles.

    `log` is in file order; `users` has the column `users_column` and one column an attribute, as text;
    `items` has the column `columns.item`; `targets` are interactions of the same users in another domain,
    with the columns `user` and `item`; `note` says what the reader left out or changed.
    """

    name: str
    log: Rows
    columns: LogColumns
    users: pa.Table | None = None
    users_column: str = "user"
    items: pa.Table | None = None
    targets: Rows | None = None
    note: str = ""
