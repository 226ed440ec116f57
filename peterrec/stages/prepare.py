"""`peterrec prepare`: from an interaction log to a prepared folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peterrec.data.interactions import CheckReport, InteractionLog, LogColumns, LogSource, Problem, open_log
from peterrec.data.labels import read_labels
from peterrec.data.log_parts import refuse_lack_of_room
from peterrec.data.prepared import PARTS, PartFigures, item_attributes, write_parts
from peterrec.data.splits import Cuts, Split, choose
from peterrec.data.summary import label_shares, readable_time
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError
from peterrec.run_folder import output_folder

if TYPE_CHECKING:
    import duckdb


def run(
    source: LogSource,
    *,
    output: Path,
    columns: LogColumns,
    users: Path | pa.Table | None = None,
    users_column: str = "user",
    items: pa.Table | None = None,
    split: str = "temporal",
    split_fractions: Sequence[float] | None = None,
    seed: int = 0,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
    minimum_item_count: int = 1,
    minimum_user_events: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Check, sort, number and split a log; returns the summary that also stands in `<output>/summary.json`.

    Rare items go first, then users with too few events left, once each: what remains may again hold an item
    that is rarer than asked. Both minima count events of the whole log, before it is split.
    `split_fractions` are the two cuts of `temporal` or the three shares of `by_user`; `seed` ranks the users
    of `by_user`. `items` are attributes of items (with the log's item column), stored as they are. All files
    appear at once, at the end.

    Raises `SettingsError` for options that do not fit, `DataError` if nothing usable is left, and what
    `open_log`, `read_labels` and `output_folder` raise.
    """
    chosen = choose(split, fractions=split_fractions, seed=seed)
    minima = {"minimum_item_count": minimum_item_count, "minimum_user_events": minimum_user_events}
    for name, least in minima.items():
        if least < 1:
            raise SettingsError(f"{name} is {least}; it must be at least 1 (which keeps everything).")
    if chosen.needs_time and columns.time is None:
        raise SettingsError(
            f"the {chosen.name} split needs times, and no time column is named. Name it, or choose the split "
            "leave_one_out or by_user, which take the order of the rows."
        )
    attributes = None if items is None else item_attributes(items, column=columns.item)
    if isinstance(source, str | os.PathLike):
        source = [source]
    if not isinstance(source, pa.Table | pa.RecordBatchReader):
        source = [os.fspath(path) for path in source]
    inputs = {
        "log": source if isinstance(source, list) else "a table",
        "users": os.fspath(users) if isinstance(users, Path) else None if users is None else "a table",
        "items": None if items is None else "a table",
    }
    names = {"user": columns.user, "item": columns.item, "time": columns.time, "time_unit": columns.time_unit}
    settings = {
        "columns": {**names, "users": users_column},
        "split": {"name": chosen.name, **chosen.parameters},
        "bad_rows": bad_rows,
        **minima,
    }
    with (
        output_folder(Path(output), stage="prepare", overwrite=overwrite) as folder,
        open_log(source, columns, bad_rows=bad_rows, memory_limit=memory_limit) as log,
        _room(),
    ):
        rare = _number(log.con, **minima)
        cuts = chosen.lay(log.con)
        vocabulary = _vocabulary(log.con, cuts=cuts, split=chosen)
        labels = None
        if users is not None:
            labels = _labels(log.con, users, column=users_column, all_users_kept=not any(rare.values()))
        with folder.files() as temporary:
            figures = write_parts(log.con, cuts=cuts, folder=temporary)
            vocabulary.save(temporary / "vocabulary.parquet")
            if labels is not None:
                pq.write_table(labels, temporary / "users.parquet", compression="zstd")
            if attributes is not None:
                pq.write_table(attributes, temporary / "items.parquet", compression="zstd")
        dropped = {"bad_rows": log.report.bad_rows, **rare}
        summary = {
            "format_version": 1,
            "rows_read": log.report.rows_read,
            "rows_dropped": {reason: rows for reason, rows in dropped.items() if rows},
            "bad_rows": {f"{p.rule} ({p.column})": p.count for p in _firsts(log.report, "bad_row")},
            **_sizes(log),
            "vocabulary": {"fingerprint": vocabulary.fingerprint, "items": vocabulary.num_items},
            **_described(chosen, log=log, cuts=cuts, figures=figures, labels=labels),
        }
        folder.write_json("summary.json", summary)
        folder.finish(
            settings=settings,
            inputs=inputs,
            id_types=log.id_types,
            vocabulary_fingerprint=vocabulary.fingerprint,
        )
    return summary


def _number(
    con: "duckdb.DuckDBPyConnection", *, minimum_item_count: int, minimum_user_events: int
) -> dict[str, int]:
    """Make `items`, `users` and, in their numbers, `log`; returns the rows left out for being too rare."""
    con.execute("""CREATE TABLE items AS SELECT (row_number() OVER () - 1)::INTEGER AS item, name, events
        FROM (SELECT item AS name, count(*) AS events FROM events GROUP BY item)""")
    total, most = _one(con, "SELECT coalesce(sum(events), 0)::BIGINT, max(events) FROM items")
    if not total:
        raise DataError("the log has no usable row; `peterrec check` tells what is wrong with each.")
    con.execute(f"DELETE FROM items WHERE events < {minimum_item_count}")
    (common,) = _one(con, "SELECT coalesce(sum(events), 0)::BIGINT FROM items")
    if not common:
        raise DataError(
            f"minimum_item_count = {minimum_item_count} leaves nothing: the most frequent item has {most:,} "
            "events. Lower it."
        )
    among = "WHERE item IN (SELECT name FROM items)" if common < total else ""
    con.execute(f"""CREATE TABLE users AS SELECT (row_number() OVER (ORDER BY name) - 1)::INTEGER AS user,
        name, events FROM (SELECT user AS name, count(*) AS events FROM events {among} GROUP BY user)""")
    (most,) = _one(con, "SELECT max(events) FROM users")
    if minimum_user_events > 1:  # numbered anew, since bounds and batches count on numbers without gaps
        con.execute(f"""CREATE OR REPLACE TABLE users AS
            SELECT (row_number() OVER (ORDER BY user) - 1)::INTEGER AS user, name, events
            FROM users WHERE events >= {minimum_user_events}""")
    (kept,) = _one(con, "SELECT coalesce(sum(events), 0)::BIGINT FROM users")
    if not kept:
        after = ", rare items not counted" if common < total else ""
        raise DataError(
            f"minimum_user_events = {minimum_user_events} leaves no user: the most active one has {most:,} "
            f"events{after}. Lower it."
        )
    con.execute("""CREATE TABLE log AS SELECT users.user, items.item, events.time, events.position FROM events
        JOIN users ON events.user = users.name JOIN items ON events.item = items.name""")
    return {"minimum_item_count": total - common, "minimum_user_events": common - kept}


def _vocabulary(con: "duckdb.DuckDBPyConnection", *, cuts: Cuts, split: Split) -> Vocabulary:
    """The vocabulary of the events that the model may know; makes `item_rows(item, row)` of it."""
    counted = con.sql(f"""SELECT item, name, seen.events FROM items JOIN (SELECT item, count(*) AS events
        FROM log WHERE {cuts.vocabulary} GROUP BY item) AS seen USING (item)""").to_arrow_table()
    if not counted.num_rows:
        raise DataError(_NOTHING_TO_LEARN[split.name].format(**split.parameters))
    vocabulary = Vocabulary.build(counted["name"], counts=counted["events"].to_numpy())
    con.register("known_rows", pa.table({"item": counted["item"], "row": vocabulary.rows(counted["name"])}))
    con.execute("CREATE TABLE item_rows AS SELECT item, row FROM known_rows")
    con.unregister("known_rows")
    return vocabulary


_NOTHING_TO_LEARN = {
    "temporal": "the temporal split with the cuts {cuts} leaves no event to train on: all events up to the "
    "first cut have the same time. Choose a later first cut (split_fractions), or leave_one_out or by_user.",
    "by_user": "the by_user split with the shares {fractions} leaves no user to train on. Raise the first "
    "share (split_fractions) or give a larger log.",
}


def _labels(
    con: "duckdb.DuckDBPyConnection", users: Path | pa.Table, *, column: str, all_users_kept: bool
) -> pa.Table:
    """The users table, of the users that are left in the log."""
    left = con.sql("SELECT name FROM users ORDER BY user").to_arrow_table()["name"]
    # a user that a filter removed is not a stranger to the log
    known = left if all_users_kept else con.sql("SELECT DISTINCT user FROM events").to_arrow_table()["user"]
    table, report = read_labels(users, user=column, known_users=known)
    if not report.ok:
        raise report.refusal()
    return table.filter(pc.call_function("is_in", [table["user"]], pc.SetLookupOptions(value_set=left)))


def _sizes(log: InteractionLog) -> dict[str, Any]:
    """Users, items and events after the filters, and the range of their times."""
    events, first, last = _one(log.con, "SELECT count(*), min(time), max(time) FROM log")
    users, items = _one(log.con, "SELECT (SELECT count(*) FROM users), count(DISTINCT item) FROM log")
    time = None
    if log.has_time:
        time = {"unit": log.time_unit, "first": first, "last": last}
        if log.time_unit != "order":  # microseconds since 1970
            time |= {"first_date": readable_time(first), "last_date": readable_time(last)}
    return {"users": users, "items": items, "events": events, "time": time}


def _described(
    split: Split,
    *,
    log: InteractionLog,
    cuts: Cuts,
    figures: dict[str, PartFigures],
    labels: pa.Table | None,
) -> dict[str, Any]:
    """What the summary says of split, parts and labels."""
    facts: dict[str, Any] = dict(cuts.facts)
    notes = [f"{p} ({p.count:,} in all)" if p.count > 1 else str(p) for p in _firsts(log.report, "note")]
    if split.needs_time and log.time_unit == "order":
        notes.append(
            "the time column holds small numbers, taken for a mere order. A temporal split is only right "
            "if they count through the whole log; if they count each user's events, choose leave_one_out "
            "or by_user."
        )
    elif split.needs_time:
        facts |= {f"{name}_date": readable_time(value) for name, value in cuts.facts.items()}
    parts = {part: figures[part].to_json(targets=part in ("validation", "test")) for part in PARTS}
    notes += [
        f"the part {part!r} is empty: no user has an event to predict there, with a history before it."
        for part in ("validation", "test")
        if not parts[part]["rows"]
    ]
    return {
        "split": {"name": split.name, "parameters": split.parameters, "caveat": split.caveat, **facts},
        "parts": parts,
        "histogram": figures["histories"].lengths.histogram(),
        "labels": {} if labels is None else label_shares(labels),
        "notes": notes,
    }


def _firsts(report: CheckReport, severity: str) -> list[Problem]:
    """The first offender of each rule and column; it knows the number of all."""
    found = {(p.rule, p.column): p for p in reversed(report.problems) if p.severity == severity}
    return list(found.values())[::-1]


@contextmanager
def _room() -> Iterator[None]:
    """Memory and disk that give out are told as such."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        refuse_lack_of_room(error)
        raise


def _one(con: "duckdb.DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    (row,) = con.execute(query).fetchall()
    return row
