"""`peterrec prepare`: from an interaction log to a prepared folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peterrec.data.item_rule import read_items
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
from peterrec.data.source_part import WithoutItems
from peterrec.data.splits import Cuts, Split, choose
from peterrec.data.summary import label_shares, readable_time
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import SettingsError
from peterrec.run_folder import output_folder
from peterrec.run_record import read_run

if TYPE_CHECKING:
    import duckdb


def run(
    source: LogSource,
    *,
    output: Path,
    columns: LogColumns,
    users: Path | pa.Table | None = None,
    users_column: str = "user",
    items: Path | pa.Table | None = None,
    without: WithoutItems | None = None,
    split: str = "temporal",
    split_fractions: Sequence[float] | None = None,
    seed: int = 0,
    encoder: Path | None = None,
    vocabulary_of: Path | None = None,
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
    not hold are left out. `vocabulary_of`, an encoder or a prepared folder, asks for its vocabulary extended by the
    new items of this log, with which `pretrain` goes on from that encoder. `items` are attributes of items (with the
    log's item column), stored as they are; `without` leaves the target domain's items out by one of them, before
    anything is counted. All files appear at once, at the end.

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
    if encoder is not None and vocabulary_of is not None:
        raise SettingsError(
            "--encoder takes a vocabulary as it is and --vocabulary-of extends one; give one of the two options."
        )
    known = None if encoder is None else Vocabulary.load(Path(encoder) / "vocabulary.parquet")
    old = None if vocabulary_of is None else _vocabulary_of(Path(vocabulary_of))
    if isinstance(items, Path):
        attributes = read_items(items, column=columns.item, bad_rows=bad_rows)
    else:
        attributes = None if items is None else item_attributes(items, column=columns.item)
    if without is not None and attributes is None:
        raise SettingsError("--without-items needs the table of items that has the column; name it with --items.")
    if isinstance(source, str | os.PathLike):
        source = [source]
    if not isinstance(source, pa.Table | pa.RecordBatchReader):
        source = [os.fspath(path) for path in source]
    inputs = {
        "log": source if isinstance(source, list) else "a table",
        "users": os.fspath(users) if isinstance(users, Path) else None if users is None else "a table",
        "items": os.fspath(items) if isinstance(items, Path) else None if items is None else "a table",
    }
    names = {"user": columns.user, "item": columns.item, "time": columns.time, "time_unit": columns.time_unit}
    settings = {
        "columns": {**names, "users": users_column},
        "split": {"name": chosen.name, **chosen.parameters},
        "bad_rows": bad_rows,
        "encoder_vocabulary": None if known is None else known.fingerprint,
        "extended_vocabulary": None if old is None else old.fingerprint,
        "without_items": None if without is None else {**vars(without.rule), "before_target": without.before_target},
        **minima,
    }
    with (
        output_folder(Path(output), stage="prepare", overwrite=overwrite) as folder,
        open_log(source, columns, bad_rows=bad_rows, memory_limit=memory_limit) as log,
        _room(),
    ):
        left_out = {} if without is None or attributes is None else without.apply(log.con, attributes)
        rare = number_log(log.con, **minima)
        cuts = chosen.lay(log.con)
        if known is None:
            vocabulary = known_items(log.con, cuts=cuts, split=chosen, extending=old)
        else:
            number_items(log.con, vocabulary=known)
            vocabulary = known
        labels, notes = None, _told(log.report, "note")
        if old is not None:
            notes.append(
                f"the vocabulary is that of {vocabulary_of} with {vocabulary.num_items - old.num_items:,} new items "
                f"behind its {old.num_items:,}."
            )
        if users is not None:
            narrowed = "every_event" if left_out else "events" if any(rare.values()) else None
            labels, report = _labels(log.con, users, column=users_column, bad_rows=bad_rows, every=narrowed)
            notes += [f"users table: {note}" for note in _told(report, "bad_row") + _told(report, "note")]
        with folder.files() as temporary:
            figures = write_parts(log.con, cuts=cuts, folder=temporary)
            vocabulary.save(temporary / "vocabulary.parquet")
            if labels is not None:
                pq.write_table(labels, temporary / "users.parquet", compression="zstd")
            if attributes is not None:
                pq.write_table(attributes, temporary / "items.parquet", compression="zstd")
        dropped = {"bad_rows": log.report.bad_rows, **left_out, **rare}
        summary = {
            "format_version": 1,
            "rows_read": log.report.rows_read,
            "rows_dropped": {reason: rows for reason, rows in dropped.items() if rows},
            "bad_rows": {
                f"{p.rule} ({p.column})" if p.column else p.rule: p.count for p in _firsts(log.report, "bad_row")
            },
            **_sizes(log),
            "vocabulary": {
                "fingerprint": vocabulary.fingerprint,
                "items": vocabulary.num_items,
                **({} if old is None else {"extends": old.fingerprint, "new_items": len(vocabulary) - len(old)}),
            },
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


def _vocabulary_of(folder: Path) -> Vocabulary:
    """That of an encoder or a prepared folder. Raises `SettingsError`, `RefusedError`."""
    stage = read_run(folder).get("stage")
    if stage not in ("pretrain", "prepare"):
        raise SettingsError(
            f"--vocabulary-of {folder}: the output of `peterrec {stage}` has no vocabulary; give an encoder "
            "(`peterrec pretrain`) or a prepared folder."
        )
    return Vocabulary.load(folder / "vocabulary.parquet")


def _labels(
    con: "duckdb.DuckDBPyConnection", users: Path | pa.Table, *, column: str, bad_rows: str, every: str | None
) -> tuple[pa.Table, CheckReport]:
    """The users table, of the users that are left in the log, and what was found in it.

    `every` is the view of all events, where some were left out: a user that a filter removed is no stranger.
    """
    left = con.sql("SELECT name FROM users ORDER BY user").to_arrow_table()["name"]
    known = left if every is None else con.sql(f"SELECT DISTINCT user FROM {every}").to_arrow_table()["user"]
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
