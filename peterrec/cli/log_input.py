"""A log as the command line names it, opened for a stage; without one, that of the embedded world."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from peterrec.data.logs.interactions import LogColumns

_TIMES = {"time", "timestamp", "datetime", "date", "ts", "at", "eventtime", "unixtime", "createdat"}


@dataclass(frozen=True)
class LogOptions:
    """What the options say of a log: its columns, its users table, its format."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: str = "auto"
    users: Path | None = None
    users_column: str | None = None
    format: str | None = None

    @property
    def column_of_users(self) -> str:
        """The user column of the users table: the log's, unless it was named."""
        return self.users_column or self.user or "user"


@dataclass(frozen=True)
class LogInput:
    """A log as the stages take it: `log` is files or rows, `users` and `items` are tables that came with it."""

    log: Any
    columns: "LogColumns"
    users: Any
    users_column: str
    items: Any = None


@contextmanager
def open_log_input(log: list[str], options: LogOptions, *, alone: bool = True) -> Iterator[LogInput]:
    """Files as they are; a public format converted into a temporary folder that goes when the block ends.

    Prints on standard error what a reader of a public format left out, and, of a log that stands `alone`, that rows
    count in file order where no time was named. Raises SettingsError for options that do not fit, and what the readers
    raise.
    """
    from peterrec.data import sources
    from peterrec.data.logs.interactions import LogColumns

    if not all(path.strip() for path in log):
        raise SettingsError("LOG is empty; name the files of the log.")
    columns = _named_columns(options)
    reader = options.format or (sources.detect(log[0]) if len(log) == 1 else None)
    if reader is None:
        columns = columns or LogColumns(time=None)
        if columns.time is None and alone:
            _note_file_order(log, columns)
        yield LogInput(log, columns, options.users, options.column_of_users)
        return
    if len(log) != 1:
        raise SettingsError(f"--format {reader} reads one path, not {len(log)}.")
    with tempfile.TemporaryDirectory(prefix="peterrec-") as work:
        source = sources.load(log[0], reader=reader, columns=columns, work=Path(work))
        if source.note:
            typer.echo(source.note, err=True)
        users, column = source.users, source.users_column
        if options.users is not None:
            users, column = options.users, options.column_of_users
        yield LogInput(source.log, source.columns, users, column, source.items)


def world_log(*, planted: bool = False) -> tuple[list[str], LogOptions]:
    """The embedded world's log, written below `runs` once; with bad rows `planted` in it, for a check to find."""
    from peterrec.stages import world

    folder, bad_rows = (world.CHECKED, world.PLANTED) if planted else (world.RAW, 0)
    log = world.raw_log(folder, bad_rows=bad_rows)
    columns = world.COLUMNS
    return [str(path) for path in log], LogOptions(columns.user, columns.item, columns.time, users=folder / "users.csv")


def prepared_world() -> Path:
    """The prepared folder of the embedded world, prepared if it is not yet."""
    from peterrec.stages import world

    if not world.is_prepared():
        typer.echo(f"Generating and preparing the embedded world in {world.FOLDER} …", err=True)
        world.run()
    return world.FOLDER


def _named_columns(options: LogOptions) -> "LogColumns | None":
    from peterrec.data.logs.interactions import LogColumns

    if options.time is None and options.time_unit != "auto":
        raise SettingsError(f"--time-unit {options.time_unit} needs --time, the column that it is about.")
    if options.user is None and options.item is None and options.time is None:
        return None
    unit: Any = options.time_unit
    return LogColumns(user=options.user or "user", item=options.item or "item", time=options.time, time_unit=unit)


def _note_file_order(log: list[str], columns: "LogColumns") -> None:
    """Says that the rows count in file order, and which column may hold their times."""
    from peterrec.data.logs.column_names import column_names

    names = [name for name in column_names(log, wanted=columns.names) if name not in columns.names]
    times = [name for name in names if "".join(filter(str.isalnum, name.casefold())) in _TIMES]
    hint = f"; the log has a column {times[0]!r}, so add --time {times[0]} if that is the time" if times else ""
    typer.echo(f"note: without --time the rows are taken in file order{hint}.", err=True)
