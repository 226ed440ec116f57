"""Histories of users from a raw log, by the vocabulary of an encoder: what predict and encode read."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from peterrec.data.logs.interactions import LogColumns, LogSource, open_log
from peterrec.data.row_stream import RowStream
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary

BATCH_EVENTS = 1 << 22  # events a record batch
USER_SHARE = 32  # events that a user counts for beside its own: bounds the users of a batch


@dataclass(frozen=True)
class NewHistories:
    """`sequences`, one row a user; `events` `(N,)` that each user has in the log, unseen items among them."""

    sequences: Sequences
    events: np.ndarray

    @property
    def unseen_events(self) -> int:
        """Events whose items the vocabulary does not hold; they were left out."""
        return int(self.events.sum() - self.sequences.lengths.sum())


@contextmanager
def open_histories(
    source: LogSource,
    *,
    columns: LogColumns,
    vocabulary: Vocabulary,
    users: pa.ChunkedArray | None = None,
    bad_rows: Literal["fail", "drop"] = "fail",
    memory_limit: str = "2GB",
) -> Iterator[NewHistories]:
    """Reads a log, in order of time (ties in file order), leaving out items that `vocabulary` does not hold.

    `users` names those wanted, with or without events; by default everybody in the log. The histories lie in
    a temporary folder that goes when the block ends. Raises what `open_log` raises.
    """
    with (
        tempfile.TemporaryDirectory(prefix="peterrec-") as temporary,
        open_log(source, columns, bad_rows=bad_rows, memory_limit=memory_limit) as log,
    ):
        con = log.con
        rows = pa.array(np.arange(FIRST_ITEM, len(vocabulary), dtype=np.int32))
        con.register("_vocabulary", pa.table({"item": vocabulary.items, "row": rows}))
        # tables, since a second cursor reads them while the first one streams
        con.execute("CREATE TABLE known_items AS SELECT item, row FROM _vocabulary")
        if users is None:
            con.execute("CREATE TABLE wanted AS SELECT DISTINCT user AS name FROM events")
        else:
            con.register("_users", pa.table({"name": users}))
            con.execute("CREATE TABLE wanted AS SELECT DISTINCT name FROM _users")
        # a user belongs to the batch of its first event; the share of each keeps users without events apart too
        before = f"(sum(total + {USER_SHARE}) OVER (ORDER BY number) - total - {USER_SHARE})"
        con.execute(
            f"CREATE TABLE numbered AS SELECT name, number, total, ({before} // {BATCH_EVENTS})::BIGINT AS batch FROM ("
            "SELECT name, row_number() OVER (ORDER BY name) - 1 AS number, coalesce(events, 0)::BIGINT AS total "
            "FROM wanted LEFT JOIN (SELECT user, count(*) AS events FROM events GROUP BY user) ON user = name)"
        )
        batches = [b for (b,) in con.execute("SELECT DISTINCT batch FROM numbered ORDER BY batch").fetchall()]
        ordered = con.cursor().sql(
            "SELECT coalesce(row, -1)::INTEGER AS row FROM events JOIN numbered ON user = name "
            "LEFT JOIN known_items USING (item) ORDER BY number, time, position"
        )
        stream = RowStream(iter(ordered.to_arrow_reader(1 << 20)))
        totals = [np.zeros(0, dtype=np.int64)]
        with SequenceWriter(Path(temporary) / "histories") as writer:
            for batch in batches:
                found = con.sql(f"SELECT name, total FROM numbered WHERE batch = {batch} ORDER BY number")
                table = found.to_arrow_table()
                total = table["total"].to_numpy()
                items = stream.take(int(total.sum()))
                seen = items >= 0
                seen_before = np.concatenate([[0], np.cumsum(seen)])
                lengths = np.diff(seen_before[np.concatenate([[0], np.cumsum(total)])])
                writer.write(table["name"].combine_chunks(), items[seen], lengths)
                totals.append(total)
        yield NewHistories(Sequences(Path(temporary) / "histories"), np.concatenate(totals))
