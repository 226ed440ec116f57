"""Which items of one log are its target domain: those with a value in a column of the items table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from peterrec.data.logs.column_names import column_names
from peterrec.data.logs.interactions import DROP_HINT
from peterrec.data.logs.labels import read_labels
from peterrec.errors import DataError, did_you_mean

_SHOWN = 40  # values that a hint may list


@dataclass(frozen=True)
class ItemRule:
    """Items whose `column` holds `value`; a cell `a|b`, or a list, holds several values and matches by any of them."""

    column: str
    value: str

    def matches(self, items: pa.Table, *, or_all: bool = False) -> pa.Table:
        """The rows of an items table that the rule takes.

        Raises DataError where there is no such column, or where the rule takes no row or, unless `or_all`, all of them.
        """
        known = [name for name in items.column_names if name != "item"]
        if self.column not in known:
            raise DataError(f"the items table has no column {self.column!r}. {did_you_mean(self.column, known)}")
        values, rows = _values(items[self.column], name=self.column)
        hit = pc.call_function("equal", [values, pa.scalar(self.value)])
        taken = pc.call_function("unique", [rows.filter(hit)])
        rule = f"the rule {self.column} = {self.value!r}"
        if not len(taken):
            counts = sorted(values.value_counts().to_pylist(), key=lambda entry: -entry["counts"])
            hint = did_you_mean(self.value, [entry["values"] for entry in counts[:_SHOWN]])
            raise DataError(f"{rule} takes no item of the items table. {hint}")
        if len(taken) == items.num_rows and not or_all:
            raise DataError(
                f"{rule} takes all {items.num_rows:,} items of the items table, so none is left for the source "
                "domain; choose a value that only some of them have."
            )
        return items.take(taken)


def read_items(items: Path | pa.Table, *, column: str, bad_rows: Literal["fail", "drop"] = "fail") -> pa.Table:
    """An items table, a file of any format that a log may have or rows in Arrow, its ids as text in `item`.

    The ids stand in `column`, which is the log's item column, else in `item`. Raises DataError for a table that cannot
    be read, or, with `bad_rows="fail"`, for rows without an item or with one that stood before.
    """
    names = column_names(items) if isinstance(items, Path) else items.column_names
    if column not in names and "item" in names:
        column = "item"
    table, report = read_labels(items, user=column, noun="item")
    if report.fatal or (bad_rows == "fail" and not report.ok):
        raise report.refusal(hint="" if report.fatal else DROP_HINT)
    rest = [name for name in table.column_names if name not in ("user", "item")]  # another `item` is no id
    return table.select(["user", *rest]).rename_columns(["item", *rest])


def _values(column: pa.ChunkedArray, *, name: str) -> tuple[pa.Array, pa.Array]:
    """The values of the cells (M,) as text, blanks around them taken off, and the row of each (M,)."""
    cells = column.combine_chunks()
    if isinstance(cells, pa.ChunkedArray):
        cells = pa.concat_arrays(cells.chunks)
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells = cells.cast(kind.value_type)
        kind = kind.value_type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        if pa.types.is_nested(kind) or pa.types.is_floating(kind):
            raise DataError(
                f"column {name!r} of the items table holds {kind}; a rule compares text, whole numbers or lists."
            )
        cells = pc.call_function("split_pattern", [cells.cast(pa.string())], pc.SplitPatternOptions("|"))
    rows = pc.call_function("list_parent_indices", [cells])
    values = pc.call_function("list_flatten", [cells]).cast(pa.string())
    return pc.call_function("utf8_trim_whitespace", [values]), rows
