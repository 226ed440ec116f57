"""Rules on items tables: which cells match, and what is refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.item_rule import ItemRule, read_items
from peterrec.errors import DataError


@pytest.mark.parametrize(
    ("cells", "value"),
    [
        ([["x", "y"], ["y"], None], "x"),
        ([[1, 2], [2], []], "1"),
        (["x", "xy", None], "x"),
        (["y| x|z", "y|X", ""], "x"),
        ([1, 12, 2], "1"),
        (pa.array(["x", "y", "xx"]).dictionary_encode(), "x"),
    ],
)
def test_a_rule_takes_cells_that_hold_the_value_among_others(cells, value, tmp_path):
    table = pa.table({"film": ["i0", "i1", "i2"], "year": [1, 2, 3], "genre": cells})
    pq.write_table(table, tmp_path / "items.parquet")
    given = [table, tmp_path / "items.parquet"]
    if not pa.types.is_list(table["genre"].type):  # which has no place in a CSV file
        rows = [",".join("" if cell is None else str(cell) for cell in row.values()) for row in table.to_pylist()]
        given.append(tmp_path / "items.csv")
        given[-1].write_text("\n".join(["film,year,genre", *rows, ""]))
    for items in given:
        taken = ItemRule("genre", value).matches(read_items(items, column="film"))
        assert taken.column_names == ["item", "year", "genre"]
        assert taken["item"].to_pylist() == ["i0"]


def test_ids_stand_in_the_column_of_the_log_or_in_item():
    named = pa.table({"item": [7, 8], "film": ["a", "b"]})
    assert read_items(named, column="film")["item"].to_pylist() == ["a", "b"]
    assert read_items(named.drop_columns(["film"]), column="film")["item"].to_pylist() == ["7", "8"]


def test_bad_rows_of_the_items_table_are_told_or_dropped():
    items = pa.table({"item": ["a", None, "b", "a"], "genre": ["x", "x", "y", "y"]})
    with pytest.raises(DataError, match="row 2, column 'item': the item is missing") as told:
        read_items(items, column="item")
    assert "the item has several rows with different values" in str(told.value)
    assert read_items(items, column="item", bad_rows="drop")["item"].to_pylist() == ["a", "b"]
