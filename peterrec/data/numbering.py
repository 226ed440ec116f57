"""From ids as text to numbers: which users and items of a log are kept, and which items a model may know."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from peterrec.data.splits import Cuts, Split
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import DataError

if TYPE_CHECKING:
    import duckdb


def number_log(
    con: "duckdb.DuckDBPyConnection", *, minimum_item_count: int, minimum_user_events: int
) -> dict[str, int]:
    """Make `items(item, name, events)`, `users(user, name, events)` and, in these numbers, `log`.

    Rare items go first, then users with too few events left. Returns the rows left out by each minimum.
    Raises `DataError` if nothing is left, naming the minimum that did it.
    """
    con.execute("""CREATE TABLE items AS SELECT (row_number() OVER () - 1)::INTEGER AS item, name, events
        FROM (SELECT item AS name, count(*) AS events FROM events GROUP BY item)""")
    total, most = one_row(con, "SELECT coalesce(sum(events), 0)::BIGINT, max(events) FROM items")
    if not total:
        raise DataError("the log has no usable row; `peterrec check` tells what is wrong with each.")
    con.execute(f"DELETE FROM items WHERE events < {minimum_item_count}")
    (common,) = one_row(con, "SELECT coalesce(sum(events), 0)::BIGINT FROM items")
    if not common:
        raise DataError(
            f"minimum_item_count = {minimum_item_count} leaves nothing: the most frequent item has {most:,} "
            "events. Lower it."
        )
    among = "WHERE item IN (SELECT name FROM items)" if common < total else ""
    con.execute(f"""CREATE TABLE users AS SELECT (row_number() OVER (ORDER BY name) - 1)::INTEGER AS user,
        name, events FROM (SELECT user AS name, count(*) AS events FROM events {among} GROUP BY user)""")
    (most,) = one_row(con, "SELECT max(events) FROM users")
    if minimum_user_events > 1:  # numbered anew, since bounds and batches count on numbers without gaps
        con.execute(f"""CREATE OR REPLACE TABLE users AS
            SELECT (row_number() OVER (ORDER BY user) - 1)::INTEGER AS user, name, events
            FROM users WHERE events >= {minimum_user_events}""")
    (kept,) = one_row(con, "SELECT coalesce(sum(events), 0)::BIGINT FROM users")
    if not kept:
        after = ", rare items not counted" if common < total else ""
        raise DataError(
            f"minimum_user_events = {minimum_user_events} leaves no user: the most active one has {most:,} "
            f"events{after}. Lower it."
        )
    con.execute("""CREATE TABLE log AS SELECT users.user, items.item, events.time, events.position FROM events
        JOIN users ON events.user = users.name JOIN items ON events.item = items.name""")
    return {"minimum_item_count": total - common, "minimum_user_events": common - kept}


def known_items(
    con: "duckdb.DuckDBPyConnection", *, cuts: Cuts, split: Split, extending: Vocabulary | None = None
) -> Vocabulary:
    """The vocabulary of the events that the model may know; makes `item_rows(item, row)` of it.

    With `extending`, that one, its rows kept and the other items of those events behind them. Raises `DataError` if
    the split leaves nothing to learn from, or nothing that `extending` knows.
    """
    counted = con.sql(f"""SELECT item, name, seen.events FROM items JOIN (SELECT item, count(*) AS events
        FROM log WHERE {cuts.vocabulary} GROUP BY item) AS seen USING (item)""").to_arrow_table()
    if not counted.num_rows:
        raise DataError(_NOTHING_TO_LEARN[split.name].format(**split.parameters))
    vocabulary = Vocabulary.build(counted["name"], counts=counted["events"].to_numpy())
    if extending is not None:
        if not (extending.rows(vocabulary.items) >= 0).any():
            raise DataError(
                f"the vocabulary to extend knows no item of the events to learn from (such as "
                f"{vocabulary.items[0].as_py()!r}; it has such as {extending.items[0].as_py()!r}): nothing that its "
                "encoder has learnt would be used. Is it the right item column, and are ids written the same way? For "
                "another catalogue prepare without --vocabulary-of and pretrain a new encoder."
            )
        vocabulary = extending.extended(vocabulary)
        number_items(con, vocabulary=vocabulary)
        return vocabulary
    con.register("known_rows", pa.table({"item": counted["item"], "row": vocabulary.rows(counted["name"])}))
    con.execute("CREATE TABLE item_rows AS SELECT item, row FROM known_rows")
    con.unregister("known_rows")
    return vocabulary


def number_items(con: "duckdb.DuckDBPyConnection", *, vocabulary: Vocabulary) -> None:
    """Makes `item_rows(item, row)` of an encoder's vocabulary, for a log that is to be read by that encoder.

    Raises `DataError` if the vocabulary knows none of the log's items.
    """
    rows = pa.array(np.arange(FIRST_ITEM, len(vocabulary), dtype=np.int32))
    con.register("known_rows", pa.table({"name": vocabulary.items, "row": rows}))
    con.execute("CREATE TABLE item_rows AS SELECT item, row FROM items JOIN known_rows USING (name)")
    con.unregister("known_rows")
    if not one_row(con, "SELECT count(*) FROM item_rows")[0]:
        (example,) = one_row(con, "SELECT min(name) FROM items")
        raise DataError(
            f"the encoder's vocabulary knows none of the log's items (such as {example!r}; it has such as "
            f"{vocabulary.items[0].as_py()!r}). Is it the right item column, and are ids written the same way?"
        )


_NOTHING_TO_LEARN = {
    "temporal": "the temporal split with the cuts {cuts} leaves no event to train on: all events up to the "
    "first cut have the same time. Choose a later first cut (--fractions), or --split leave_one_out or by_user.",
    "by_user": "the by_user split with the shares {fractions} leaves no user to train on. Raise the first "
    "share (--fractions) or give a larger log.",
}


def one_row(con: "duckdb.DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    """The only row of a query's result."""
    (row,) = con.execute(query).fetchall()
    return row
