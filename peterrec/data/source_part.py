"""The source domain's part of one log: without the target items, and, if asked for, without what came after them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from peterrec.data.item_rule import ItemRule
from peterrec.data.numbering import one_row
from peterrec.errors import DataError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class WithoutItems:
    """Leave out the items that `rule` takes, and with `before_target` all that a user did after the last of them."""

    rule: ItemRule
    before_target: bool = False

    def apply(self, con: "duckdb.DuckDBPyConnection", items: pa.Table) -> dict[str, int]:
        """Narrows the view `events` of an opened log; the view `every_event` keeps all of them.

        `items` is the items table, with ids in `item`. What came after is told by the log's order: time, then place in
        the files. Returns the rows that go, by reason. Raises DataError where no event goes, or all do.
        """
        taken = self.rule.matches(items)
        con.register("_taken", taken.select(["item"]))
        con.execute("CREATE TABLE target_domain AS SELECT DISTINCT item FROM _taken")
        con.unregister("_taken")
        con.execute("ALTER VIEW events RENAME TO every_event")
        con.execute("""CREATE TABLE last_targets AS SELECT user, max((time, position)) AS last FROM every_event
            SEMI JOIN target_domain USING (item) GROUP BY user""")
        after = "(e.time, e.position) > last" if self.before_target else "false"
        con.execute(f"""CREATE TABLE gone AS SELECT e.position, t.item IS NOT NULL AS target FROM every_event AS e
            LEFT JOIN target_domain AS t ON e.item = t.item LEFT JOIN last_targets AS l ON e.user = l.user
            WHERE t.item IS NOT NULL OR coalesce({after}, false)""")
        con.execute("CREATE VIEW events AS SELECT * FROM every_event ANTI JOIN gone USING (position)")
        targets, later = one_row(con, "SELECT count(*) FILTER (target), count(*) FILTER (NOT target) FROM gone")
        (total,) = one_row(con, "SELECT count(*) FROM every_event")
        rule = f"--without-items {self.rule.column}={self.rule.value}"
        if not targets:
            (example,) = one_row(con, "SELECT min(item) FROM every_event")
            raise DataError(
                f"{rule} takes {taken.num_rows:,} items (such as {taken['item'][0].as_py()!r}), none of which is in "
                f"the log (which has such as {example!r}). Are ids written the same way?"
            )
        if targets + later == total:
            raise DataError(f"{rule} leaves no event of the log; choose a value that only some items have.")
        return {"target_items": targets, **({"after_last_target": later} if self.before_target else {})}
