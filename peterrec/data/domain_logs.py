"""The logs of a source and a target domain: two, or one whose items a rule divides; their sound events as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from peterrec.data.item_rule import ItemRule, read_items
from peterrec.data.logs.interactions import CheckReport, InteractionLog, LogColumns, LogSource, open_log
from peterrec.data.logs.parts import refuse_lack_of_room
from peterrec.data.logs.sql import text
from peterrec.data.numbering import one_row
from peterrec.errors import DataError

BadRows = Literal["fail", "drop"]


@dataclass(frozen=True)
class TwoLogs:
    """A log for each domain; their times alone say what came before what. `items` are attributes of target items."""

    source: LogSource
    target: LogSource
    source_columns: LogColumns
    target_columns: LogColumns
    items: Path | pa.Table | None = None


@dataclass(frozen=True)
class OneLog:
    """One log in which `rule` takes the items of the target domain; all others are the source domain's.

    The log's own order (time, then place in the files) says what came before what. Items that the items table does not
    hold are source items.
    """

    log: LogSource
    columns: LogColumns
    items: Path | pa.Table
    rule: ItemRule


DomainLogs = TwoLogs | OneLog


@dataclass(frozen=True)
class DomainEvents:
    """Parquet files `source` and `target` of events (user, item, time, position).

    `one_order`: time and position order the events of both together; else only times compare. `items` is the table of
    target items, if there is one; `facts` goes into the summary.
    """

    source: Path
    target: Path
    one_order: bool
    items: pa.Table | None
    facts: dict[str, Any]


def write_events(
    logs: DomainLogs, *, folder: Path, bad_rows: BadRows = "fail", memory_limit: str = "2GB"
) -> DomainEvents:
    """Check the logs and write their sound events into `folder`, in bounded memory.

    Raises DataError where two logs have no times that compare, or where a rule leaves a domain without events, and what
    `open_log`, `read_items` and `ItemRule.matches` raise.
    """
    if isinstance(logs, OneLog):
        return _divide(logs, folder=folder, bad_rows=bad_rows, memory_limit=memory_limit)
    for domain, columns, option in (
        ("source", logs.source_columns, "--time"),
        ("target", logs.target_columns, "--time or --target-time"),
    ):
        if columns.time is None:
            raise DataError(
                f"the {domain} log has no time column named: places in the files of two logs do not tell which event "
                "came first, so a history could hold what happened after the event to predict. Name it with "
                f"{option}; a format without times (tenrec, peterrec_text) can be no domain of two."
            )
    items = None
    if logs.items is not None:
        items = read_items(logs.items, column=logs.target_columns.item, bad_rows=bad_rows)
    files, units, facts = {}, {}, {}
    for domain, log, columns in (
        ("source", logs.source, logs.source_columns),
        ("target", logs.target, logs.target_columns),
    ):
        with open_log(log, columns, bad_rows=bad_rows, memory_limit=memory_limit) as opened, room():
            files[domain] = folder / f"{domain}.parquet"
            _copy(opened, files[domain], "true")
            units[domain], facts[domain] = opened.time_unit, _facts(opened.report)
    if (units["source"] == "order") != (units["target"] == "order"):
        counted = next(domain for domain, unit in units.items() if unit == "order")
        raise DataError(
            f"the times of the {counted} log are small numbers, taken for an order, and those of the other log are a "
            "clock's: they do not tell which event came first. Give both logs times of one kind."
        )
    notes = []
    if units["source"] == "order":
        notes.append(
            "the times of both logs are small numbers, taken for an order; the histories are right only if they count "
            "through both logs together."
        )
    return DomainEvents(files["source"], files["target"], False, items, {"logs": facts, "notes": notes})


def _divide(logs: OneLog, *, folder: Path, bad_rows: BadRows, memory_limit: str) -> DomainEvents:
    """One log as two: events of the items that the rule takes, and the others."""
    every = read_items(logs.items, column=logs.columns.item, bad_rows=bad_rows)
    items = logs.rule.matches(every)
    source, target = folder / "source.parquet", folder / "target.parquet"
    with open_log(logs.log, logs.columns, bad_rows=bad_rows, memory_limit=memory_limit) as opened, room():
        con = opened.con
        for name, table in (("_target_items", items), ("_every_item", every)):
            con.register(name, table.select(["item"]))
        taken = "item IN (SELECT item FROM _target_items)"
        count, both = one_row(con, f"SELECT count(*) FILTER ({taken}), count(*) FROM events")
        rule = f"the rule {logs.rule.column} = {logs.rule.value!r}"
        if not count:
            (example,) = one_row(con, "SELECT min(item) FROM events")
            raise DataError(
                f"{rule} takes {items.num_rows:,} items (such as {items['item'][0].as_py()!r}), none of which is in "
                f"the log (which has such as {example!r}). Are ids written the same way?"
            )
        if count == both:
            raise DataError(
                f"{rule} takes all items that are in the log, so no source event is left; choose a value that only "
                "some of them have."
            )
        (unlisted,) = one_row(
            con, "SELECT count(DISTINCT item) FROM events WHERE item NOT IN (SELECT item FROM _every_item)"
        )
        _copy(opened, target, taken)
        _copy(opened, source, f"NOT {taken}")
        facts = {"log": _facts(opened.report)}
    notes = []
    if unlisted:
        notes.append(f"{unlisted:,} items of the log are not in the items table; they count as source items.")
    split = {"rule": {"column": logs.rule.column, "value": logs.rule.value}, "items_not_listed": unlisted}
    return DomainEvents(source, target, True, items, {"logs": facts, **split, "notes": notes})


def _copy(log: InteractionLog, path: Path, condition: str) -> None:
    query = f"SELECT user, item, time, position FROM events WHERE {condition}"
    log.con.execute(f"COPY ({query}) TO {text(path)} (FORMAT parquet, COMPRESSION lz4_raw)")


def _facts(report: CheckReport) -> dict[str, int]:
    return {"rows_read": report.rows_read, "bad_rows": report.bad_rows}


@contextmanager
def room() -> Iterator[None]:
    """Memory and disk that give out are told as such: raises ResourceError."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        refuse_lack_of_room(error)
        raise
