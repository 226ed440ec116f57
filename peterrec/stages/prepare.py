"""`peterrec prepare`: from an interaction log to a prepared folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peterrec.data.logs.interactions import (
    DROP_HINT,
    CheckReport,
    InteractionLog,
    LogColumns,
    LogSource,
    Problem,
    open_log,
)
from peterrec.data.logs.labels import read_labels
from peterrec.data.logs.parts import refuse_lack_of_room
from peterrec.data.numbering import known_items, number_items, number_log, one_row
from peterrec.data.prepared import PARTS, PartFigures, item_attributes, write_parts
from peterrec.data.splits import Cuts, Split, choose
from peterrec.data.summary import label_shares, readable_time
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import SettingsError
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
    encoder: Path | None = None,
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
    of `by_user`. The vocabulary is that of `encoder` if given, so that its adapters fit; items that it does
    not hold are left out. `items` are attributes of items (with the log's item column), stored as they are. All files
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
    known = None if encoder is None else Vocabulary.load(Path(encoder) / "vocabulary.parquet")
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
        "encoder_vocabulary": None if known is None else known.fingerprint,
        **minima,
    }
    with (
        output_folder(Path(output), stage="prepare", overwrite=overwrite) as folder,
        open_log(source, columns, bad_rows=bad_rows, memory_limit=memory_limit) as log,
        _room(),
    ):
        rare = number_log(log.con, **minima)
        cuts = chosen.lay(log.con)
        if known is None:
            vocabulary = known_items(log.con, cuts=cuts, split=chosen)
        else:
            number_items(log.con, vocabulary=known)
            vocabulary = known
        labels, notes = None, _told(log.report, "note")
        if users is not None:
            all_kept = not any(rare.values())
            labels, report = _labels(log.con, users, column=users_column, bad_rows=bad_rows, all_kept=all_kept)
            notes += [f"users table: {note}" for note in _told(report, "bad_row") + _told(report, "note")]
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
            "bad_rows": {
                f"{p.rule} ({p.column})" if p.column else p.rule: p.count for p in _firsts(log.report, "bad_row")
            },
            **_sizes(log),
            "vocabulary": {"fingerprint": vocabulary.fingerprint, "items": vocabulary.num_items},
            **_described(chosen, log=log, cuts=cuts, figures=figures, notes=notes),
            "labels": {} if labels is None else label_shares(labels),
        }
        folder.write_json("summary.json", summary)
        folder.finish(
            settings=settings,
            inputs=inputs,
            id_types=log.id_types,
            vocabulary_fingerprint=vocabulary.fingerprint,
        )
    return summary


def _labels(
    con: "duckdb.DuckDBPyConnection", users: Path | pa.Table, *, column: str, bad_rows: str, all_kept: bool
) -> tuple[pa.Table, CheckReport]:
    """The users table, of the users that are left in the log, and what was found in it."""
    left = con.sql("SELECT name FROM users ORDER BY user").to_arrow_table()["name"]
    # a user that a filter removed is not a stranger to the log
    known = left if all_kept else con.sql("SELECT DISTINCT user FROM events").to_arrow_table()["user"]
    table, report = read_labels(users, user=column, known_users=known)
    if report.fatal or (bad_rows == "fail" and not report.ok):
        raise report.refusal(hint="" if report.fatal else DROP_HINT)
    return table.filter(pc.call_function("is_in", [table["user"]], pc.SetLookupOptions(value_set=left))), report


def _sizes(log: InteractionLog) -> dict[str, Any]:
    """Users, items and events after the filters, and the range of their times."""
    events, first, last = one_row(log.con, "SELECT count(*), min(time), max(time) FROM log")
    users, items = one_row(log.con, "SELECT (SELECT count(*) FROM users), count(DISTINCT item) FROM log")
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
    notes: list[str],
) -> dict[str, Any]:
    """What the summary says of split and parts; `notes` are those of the check."""
    facts: dict[str, Any] = dict(cuts.facts)
    notes = list(notes)
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
        "notes": notes,
    }


def _firsts(report: CheckReport, severity: str) -> list[Problem]:
    """The first offender of each rule and column; it knows the number of all."""
    found = {(p.rule, p.column): p for p in reversed(report.problems) if p.severity == severity}
    return list(found.values())[::-1]


def _told(report: CheckReport, severity: str) -> list[str]:
    return [str(problem) for problem in _firsts(report, severity)]


@contextmanager
def _room() -> Iterator[None]:
    """Memory and disk that give out are told as such."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        refuse_lack_of_room(error)
        raise
