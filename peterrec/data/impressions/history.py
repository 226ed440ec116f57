"""The history of each impression's user: which known events came strictly before it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from peterrec.data.domain_logs import BadRows
from peterrec.data.impressions.impressions import HISTORIES
from peterrec.data.impressions.reader import RawRows
from peterrec.data.impressions.writer import write_before
from peterrec.data.logs.interactions import LogColumns, LogSource, open_log
from peterrec.data.logs.sql import text
from peterrec.data.numbering import one_row
from peterrec.data.row_stream import RowStream
from peterrec.data.sequences import SequenceWriter
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import DataError, SettingsError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_EVENTS = 1 << 22  # events a record batch
USER_SHARE = 32  # events that a user counts for beside its own: bounds the users of a batch


@dataclass(frozen=True)
class History:
    """A log of events, and the vocabulary of the encoder that will read them; other items are left out."""

    log: LogSource
    columns: LogColumns
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if self.columns.time is None:
            raise SettingsError(
                "the history has no time column named, so nothing says which events came before an impression; name it "
                "with --history-time (or --time)."
            )


def _copy_events(history: History, *, path: Path, bad_rows: BadRows, memory_limit: str) -> str | None:
    """Checks the log and writes its sound events (user, item, time, position) as Parquet; returns the unit of times.

    Raises what `open_log` raises.
    """
    with open_log(history.log, history.columns, bad_rows=bad_rows, memory_limit=memory_limit) as log:
        query = "SELECT user, item, time, position FROM events"
        log.con.execute(f"COPY ({query}) TO {text(path)} (FORMAT parquet, COMPRESSION lz4_raw)")
        return log.time_unit


def add_history(
    raw: RawRows, history: History | None, *, folder: Path, bad_rows: BadRows, memory_limit: str, strict: bool
) -> dict[str, Any] | None:
    """Writes into `folder` what was known before each row of `sound`, and returns counts; None without a history.

    Needs `people` (name, number). Where it is `strict`, raises DataError if no user of the rows, or no item of the log,
    is known; also where times do not compare, and what `open_log` raises.
    """
    if history is None:
        return None
    timed = raw.roles.time is not None
    with tempfile.TemporaryDirectory(prefix="peterrec-") as temporary:
        events = Path(temporary) / "events.parquet"
        unit = _copy_events(history, path=events, bad_rows=bad_rows, memory_limit=memory_limit)
        if timed and (unit == "order") != (raw.clock.unit == "order"):
            counted = "history" if unit == "order" else "impressions"
            raise DataError(
                f"the times of the {counted} are small numbers, taken for an order, and the others are a clock's: they "
                "do not tell which event came first. Give both times of one kind."
            )
        counts = _write_history(
            raw.con, events, vocabulary=history.vocabulary, folder=folder / HISTORIES, timed=timed, strict=strict
        )
        write_before(raw.con, folder)
    return counts


def _write_history(
    con: "DuckDBPyConnection", events: Path, *, vocabulary: Vocabulary, folder: Path, timed: bool, strict: bool
) -> dict[str, Any]:
    """Writes the known events of the users in `people` (name, number), and makes `seen` (position, before, item_row).

    The rows are those of `sound`. Equal times do not count as before. Without times (`timed` is false) all events do.
    Returns counts. Where it is `strict`, raises DataError if no user of the rows, or no item of the log, is known.
    """
    con.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet({text(events)})")
    rows = pa.array(np.arange(FIRST_ITEM, len(vocabulary), dtype=np.int32))
    con.register("_vocabulary", pa.table({"item": vocabulary.items, "row": rows}))
    con.execute("CREATE TABLE known_items AS SELECT item, row FROM _vocabulary")
    con.unregister("_vocabulary")
    if strict:
        _refuse_strangers(con, vocabulary)
    # numbered by user, time and place in the files; `seen` counts known events up to each
    con.execute("""CREATE TABLE known_events AS SELECT number, time, position, row,
        row_number() OVER (PARTITION BY number ORDER BY time, position) AS seen
        FROM events JOIN people ON user = name JOIN known_items USING (item)""")
    con.execute(
        "CREATE TABLE moments AS SELECT number, time, max(seen) AS seen FROM known_events GROUP BY number, time"
    )
    con.execute("CREATE TABLE totals AS SELECT number, max(seen) AS seen FROM known_events GROUP BY number")
    before = (
        "ASOF LEFT JOIN moments AS m ON r.number = m.number AND r.time > m.time"
        if timed
        else "LEFT JOIN totals AS m ON r.number = m.number"
    )
    con.execute(f"""CREATE TABLE seen AS SELECT r.position, coalesce(m.seen, 0)::BIGINT AS before,
        coalesce(k.row, 0)::INTEGER AS item_row FROM
        (SELECT position, time, item, number FROM sound JOIN people ON user = name) AS r
        {before} LEFT JOIN known_items AS k ON k.item = r.item""")
    _write_sequences(con, folder)
    unseen = one_row(
        con, "SELECT count(*) FROM events JOIN people ON user = name WHERE item NOT IN (SELECT item FROM known_items)"
    )[0]
    known, users = one_row(con, "SELECT count(*), count(DISTINCT number) FROM known_events")
    empty, strange = one_row(con, "SELECT count(*) FILTER (before = 0), count(*) FILTER (item_row = 0) FROM seen")
    return {
        "events": known,
        "unseen_events": unseen,
        "users_with_events": users,
        "rows_without_events_before": empty,
        "rows_without_a_known_item": strange,
    }


def _refuse_strangers(con: "DuckDBPyConnection", vocabulary: Vocabulary) -> None:
    if not one_row(con, "SELECT EXISTS (SELECT 1 FROM events SEMI JOIN known_items USING (item))")[0]:
        (example,) = one_row(con, "SELECT min(item) FROM events")
        raise DataError(
            f"the encoder's vocabulary knows no item of the history (such as {example!r}; it has such as "
            f"{vocabulary.items[0].as_py()!r}). Is it the right item column, and are ids written the same way?"
        )
    if not one_row(con, "SELECT EXISTS (SELECT 1 FROM events JOIN people ON user = name)")[0]:
        examples = [one_row(con, f"SELECT min({c}) FROM {t}")[0] for c, t in (("user", "events"), ("name", "people"))]
        raise DataError(
            f"no user of the impressions (such as {examples[1]!r}) is in the history (such as {examples[0]!r}). Are "
            "these the right user columns, and are ids written the same way?"
        )


def _write_sequences(con: "DuckDBPyConnection", folder: Path) -> None:
    """One row a user, in the order of their numbers, with or without events."""
    total = f"coalesce(seen, 0) + {USER_SHARE}"
    con.execute(f"""CREATE TABLE batches AS SELECT name, number, coalesce(seen, 0)::BIGINT AS total,
        ((sum({total}) OVER (ORDER BY number) - ({total})) // {BATCH_EVENTS})::BIGINT AS batch
        FROM people LEFT JOIN totals USING (number)""")
    numbers = [b for (b,) in con.execute("SELECT DISTINCT batch FROM batches ORDER BY batch").fetchall()]
    ordered = con.cursor().sql("SELECT row FROM known_events ORDER BY number, seen")
    stream = RowStream(iter(ordered.to_arrow_reader(1 << 20)))
    with SequenceWriter(folder) as writer:
        for batch in numbers:
            table = con.sql(f"SELECT name, total FROM batches WHERE batch = {batch} ORDER BY number").to_arrow_table()
            lengths = table["total"].to_numpy()
            writer.write(table["name"].combine_chunks(), stream.take(int(lengths.sum())), lengths)
