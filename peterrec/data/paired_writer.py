"""Writing paired logs: the users of both domains, their events in one order, and what each could know before it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.domain_logs import DomainEvents
from peterrec.data.logs.sql import text
from peterrec.data.numbering import one_row
from peterrec.data.row_stream import RowStream
from peterrec.data.sequences import SequenceWriter
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

BATCH_EVENTS = 1 << 22  # events a record batch, as in prepared logs
COLUMNS = {"owner": np.int64, "item": np.int32, "before": np.int64, "place": np.int64}  # one file each


def pair_users(con: "DuckDBPyConnection", *, events: DomainEvents) -> dict[str, int]:
    """Makes `source` and `target` (user, item, time, position) and `people` (name, number, total, targets, batch).

    `people` are the users of both logs, numbered by id. Returns how many each log has and how many both. Raises
    DataError if they share none.
    """
    for domain, path in (("source", events.source), ("target", events.target)):
        con.execute(f"CREATE VIEW {domain} AS SELECT * FROM read_parquet({text(path)})")
        con.execute(
            f"CREATE TABLE {domain}_users AS SELECT user AS name, count(*) AS events FROM {domain} GROUP BY user"
        )
    # a user belongs to the batch of the first event, so that a batch is at most one user too large
    con.execute(f"""CREATE TABLE people AS SELECT name, (row_number() OVER (ORDER BY name) - 1)::BIGINT AS number,
        total, targets, ((sum(total) OVER (ORDER BY name) - total) // {BATCH_EVENTS})::BIGINT AS batch FROM (
        SELECT name, t.events AS targets, (s.events + t.events)::BIGINT AS total
        FROM source_users AS s JOIN target_users AS t USING (name))""")
    tables = ("source_users", "target_users", "people")
    source, target, both = (one_row(con, f"SELECT count(*) FROM {table}")[0] for table in tables)
    if not both:
        examples = [one_row(con, f"SELECT min(name) FROM {domain}_users")[0] for domain in ("source", "target")]
        raise DataError(
            f"no user is in both domains: {source:,} users in the source log, such as {examples[0]!r}, and {target:,} "
            f"in the target log, such as {examples[1]!r}. Are these the right user columns, and are ids written the "
            "same way?"
        )
    return {"source": source, "target": target, "joined": both}


def target_items(con: "DuckDBPyConnection") -> Vocabulary:
    """The catalogue: all items of the target log, with their counts in the whole log."""
    counted = con.sql("SELECT item, count(*) AS events FROM target GROUP BY item").to_arrow_table()
    return Vocabulary.build(counted["item"], counts=counted["events"].to_numpy())


def number_pairs(con: "DuckDBPyConnection", *, source: Vocabulary, target: Vocabulary) -> None:
    """Makes `source_rows` and `target_rows` (item, row); target row t stands behind the source rows, as V + t − 3.

    Raises DataError if the source log holds no item that `source` knows.
    """
    for name, vocabulary, first in (("source", source, FIRST_ITEM), ("target", target, len(source))):
        rows = pa.array(np.arange(first, first + vocabulary.num_items, dtype=np.int32))
        con.register("_numbered", pa.table({"item": vocabulary.items, "row": rows}))
        con.execute(f"CREATE TABLE {name}_rows AS SELECT item, row FROM _numbered")
        con.unregister("_numbered")
    if not one_row(con, "SELECT EXISTS (SELECT 1 FROM source SEMI JOIN source_rows USING (item))")[0]:
        (example,) = one_row(con, "SELECT min(item) FROM source")
        raise DataError(
            f"the encoder's vocabulary knows no item of the source log (such as {example!r}; it has such as "
            f"{source.items[0].as_py()!r}). Is it the right item column, and are ids written the same way?"
        )


def write_arrays(
    con: "DuckDBPyConnection", *, folder: Path, first_target: int, one_order: bool
) -> tuple[dict[str, int], str]:
    """Sort the events of `people` and write `sources`, `mixed` and the columns of the target events into `folder`.

    Rows from `first_target` = V on are target items. In one order, time and then position say what came before a target
    event; else time alone, and source events at the very time of a target event do not stand before it. Returns counts
    and the digest of the target events.
    """
    total = one_row(con, "SELECT sum(targets)::BIGINT FROM people")[0]
    columns = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(total,))
        for name, kind in COLUMNS.items()
    }
    late = 0 if one_order else 1
    ordered = con.cursor().sql(f"""SELECT row FROM (
        SELECT number, time, {late} AS late, position, coalesce(row, -1)::INTEGER AS row
            FROM source JOIN people ON user = name LEFT JOIN source_rows USING (item)
        UNION ALL SELECT number, time, 0, position, row
            FROM target JOIN people ON user = name JOIN target_rows USING (item)
        ) ORDER BY number, time, late, position""")
    stream = RowStream(iter(ordered.to_arrow_reader(1 << 20)))
    batches = [b for (b,) in con.execute("SELECT DISTINCT batch FROM people ORDER BY batch").fetchall()]
    counts = {"source": 0, "unseen": 0, "target": 0, "without_source": 0, "users_without_source": 0}
    digest = hashlib.sha256()
    with SequenceWriter(folder / "sources") as sources, SequenceWriter(folder / "mixed") as mixed:
        for batch in batches:
            people = con.sql(f"SELECT name, number, total FROM people WHERE batch = {batch} ORDER BY number")
            table = people.to_arrow_table()
            totals = table["total"].to_numpy().astype(np.int64)
            rows = stream.take(int(totals.sum()))
            ends = np.cumsum(totals)
            bounds = np.concatenate([[0], ends])
            known, of_target = rows >= 0, rows >= first_target
            of_source = known & ~of_target
            seen, seen_source = _counted(known), _counted(of_source)
            users = np.repeat(np.arange(len(totals)), totals)[of_target]
            at, begin = np.flatnonzero(of_target), bounds[users]
            before = seen_source[at] - seen_source[begin]
            found = {
                "owner": users + int(table["number"][0].as_py()),
                "item": rows[at] - np.int32(first_target - FIRST_ITEM),
                "before": before,
                "place": seen[at] - seen[begin],
            }
            stop = counts["target"] + len(at)
            for name, values in found.items():
                columns[name][counts["target"] : stop] = values
                digest.update(np.ascontiguousarray(values, dtype=COLUMNS[name]).tobytes())
            names = table["name"].combine_chunks()
            lengths = np.diff(seen_source[bounds])
            sources.write(names, rows[of_source], lengths)
            mixed.write(names, rows[known], np.diff(seen[bounds]))
            counts["target"] = stop
            counts["source"] += len(rows) - len(at)
            counts["unseen"] += int((~known).sum())
            counts["without_source"] += int((before == 0).sum())
            counts["users_without_source"] += int((lengths == 0).sum())
    assert counts["target"] == total
    for column in columns.values():
        column.flush()
    return counts, digest.hexdigest()


def describe_pairs(con: "DuckDBPyConnection", *, users: dict[str, int], counts: dict[str, int]) -> dict[str, Any]:
    """The figures of the summary: users, events, items, and ties in time between the domains."""
    source_events, target_events = one_row(con, "SELECT (SELECT count(*) FROM source), (SELECT count(*) FROM target)")
    (ties,) = one_row(
        con,
        "SELECT count(*) FROM target AS t JOIN people ON t.user = name WHERE EXISTS "
        "(SELECT 1 FROM source AS s WHERE s.user = t.user AND s.time = t.time)",
    )
    unseen, in_both, known_targets = one_row(
        con,
        "SELECT (SELECT count(DISTINCT item) FROM source ANTI JOIN source_rows USING (item)), "
        "(SELECT count(*) FROM target_rows SEMI JOIN (SELECT DISTINCT item FROM source) USING (item)), "
        "(SELECT count(*) FROM target_rows SEMI JOIN source_rows USING (item))",
    )
    return {
        "users": {
            **users,
            "source_only": users["source"] - users["joined"],
            "target_only": users["target"] - users["joined"],
            "joined_without_known_source_events": counts["users_without_source"],
        },
        "events": {
            "source_log": source_events,
            "source": counts["source"],
            "source_unseen": counts["unseen"],
            "target_log": target_events,
            "target": counts["target"],
            "target_without_source_before": counts["without_source"],
            "target_at_the_time_of_a_source_event": ties,
        },
        "items": {
            "source_unseen": unseen,
            "target": one_row(con, "SELECT count(*) FROM target_rows")[0],
            "target_ids_in_the_source_log": in_both,
            "target_ids_in_the_source_vocabulary": known_targets,
        },
    }


def _counted(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many are true before each place (n + 1,)."""
    counted = np.zeros(len(flags) + 1, dtype=np.int64)
    np.cumsum(flags, out=counted[1:])
    return counted
