"""Histories of users from the raw logs of two domains, or from one that holds both, in one order."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from peterrec.data.domain_logs import BadRows, TwoLogs, room, write_events
from peterrec.data.logs.database import temporary_database
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.logs.sql import text
from peterrec.data.new_histories import NewHistories, open_histories
from peterrec.data.vocabulary import Vocabulary

# written before ids, since the domains may call different items alike
MARKS = {"source": "s", "target": "t"}


@contextmanager
def open_mixed_histories(
    logs: TwoLogs,
    *,
    known: Vocabulary,
    catalogue: Vocabulary,
    users: pa.ChunkedArray,
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
) -> Iterator[NewHistories]:
    """The `users` of two logs as `PairedLogs.mixed` has them, but also those without events in one or both.

    A source item is its row in `known` (V rows), the target item of row t in `catalogue` is V + t − 3; at equal times
    target events come first. Items that neither holds are left out. Raises what `write_events` and `open_log` raise.
    """
    with tempfile.TemporaryDirectory(prefix="peterrec-") as temporary:
        folder = Path(temporary)
        events = write_events(logs, folder=folder, bad_rows=bad_rows, memory_limit=memory_limit)
        marked = []
        with temporary_database(memory_limit, None, None) as con, room():
            for domain, path in (("target", events.target), ("source", events.source)):
                marked.append(folder / f"{domain}-marked.parquet")
                query = f"SELECT user, '{MARKS[domain]}' || item AS item, time FROM read_parquet({text(path)})"
                con.execute(f"COPY ({query} ORDER BY position) TO {text(marked[-1])} (FORMAT parquet)")
        both = joined_vocabulary(_marked(known, "source"), _marked(catalogue, "target"))
        # the files in this order: of events at one time the target's come first
        with open_histories(
            marked,
            columns=LogColumns(time_unit="order"),
            vocabulary=both,
            users=users,
            memory_limit=memory_limit,
        ) as found:
            yield found


def joined_vocabulary(known: Vocabulary, catalogue: Vocabulary) -> Vocabulary:
    """The rows of mixed histories: those of `known`, behind them the items of `catalogue`; ids must differ."""
    items = pa.chunked_array([known.items, catalogue.items], pa.string()).combine_chunks()
    counts = [0] * (known.num_items + catalogue.num_items)  # of no use where rows are looked up
    return Vocabulary(items, pa.array(counts, pa.int64()).to_numpy())


def _marked(vocabulary: Vocabulary, domain: str) -> Vocabulary:
    items = pc.call_function("binary_join_element_wise", [pa.scalar(MARKS[domain]), vocabulary.items, pa.scalar("")])
    return Vocabulary(items, vocabulary.counts)
