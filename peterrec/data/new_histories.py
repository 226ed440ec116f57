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
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary

BATCH_USERS = 100_000


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
        if users is None:
            con.execute("CREATE TEMP TABLE wanted AS SELECT DISTINCT user AS name FROM events")
        else:
            con.register("_users", pa.table({"name": users}))
            con.execute("CREATE TEMP TABLE wanted AS SELECT DISTINCT name FROM _users")
        con.execute(
            "CREATE TEMP TABLE numbered AS SELECT name, row_number() OVER (ORDER BY name) - 1 AS number FROM wanted"
        )
        con.execute(
            "CREATE TEMP TABLE known AS SELECT number, v.row, time, position FROM events JOIN numbered ON "
            "events.user = name LEFT JOIN _vocabulary AS v ON events.item = v.item"
        )
        (count,) = con.execute("SELECT count(*) FROM numbered").fetchall()[0]
        totals = []
        with SequenceWriter(Path(temporary) / "histories") as writer:
            for first in range(0, count, BATCH_USERS):
                span = f"number >= {first} AND number < {first + BATCH_USERS}"
                names = con.sql(f"SELECT name FROM numbered WHERE {span} ORDER BY number").to_arrow_table()["name"]
                events = con.sql(
                    f"SELECT number, row FROM known WHERE {span} ORDER BY number, time, position"
                ).to_arrow_table()
                owner = events["number"].to_numpy().astype(np.int64) - first
                item = events["row"].fill_null(-1).to_numpy().astype(np.int32)
                seen = item >= 0
                totals.append(np.bincount(owner, minlength=len(names)))
                lengths = np.bincount(owner[seen], minlength=len(names))
                writer.write(names.combine_chunks(), item[seen], lengths)
        events_of = np.concatenate(totals) if totals else np.zeros(0, dtype=np.int64)
        yield NewHistories(Sequences(Path(temporary) / "histories"), events_of)
