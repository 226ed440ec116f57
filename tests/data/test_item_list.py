"""Lists of items in every kind of file."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.item_list import known_rows, read_item_list
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError

IDS = ["i7", "07", "a b", "é", "i7 ", "x,y"]


def read(path, column="item"):
    return read_item_list(path, column=column, option="--allow").to_pylist()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["list.txt", "LIST.TXT", "list.txt.gz"])
def test_text_has_one_id_a_line(tmp_path, name, end):
    content = ("\ufeff" + end.join([*IDS, "", "  ", IDS[0]])).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read(tmp_path / name) == IDS


def test_tables_have_a_column(tmp_path):
    table = pa.table({"note": ["n"] * 7, "item": [*IDS, IDS[0]]})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(table.rename_columns(["note", "product"]), tmp_path / "b.parquet")
    pq.write_table(table.select(["item"]).rename_columns(["anything"]), tmp_path / "c.parquet")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"item": item, "why": 1}) + "\n" for item in IDS))
    (tmp_path / "e.csv").write_text("item\n" + "".join(f'"{item}"\n' for item in IDS), "utf-8")
    (tmp_path / "f.csv").write_text("why;item\n" + "".join(f"w;{item}\n" for item in IDS), "utf-8")
    for name in "abcdef":
        path = next(tmp_path.glob(f"{name}.*"))
        assert read(path, column="product" if name == "b" else "item") == IDS, path
    assert read(tmp_path / "a.parquet", column="product") == IDS, "item is the other name that is tried"


def test_whole_numbers_become_text(tmp_path):
    pq.write_table(pa.table({"item": pa.array([2**60 + 1, 3, 3])}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [str(2**60 + 1), "3"]
    (tmp_path / "b.csv").write_text("item,n\n007,1\n7,1\n")
    assert read(tmp_path / "b.csv") == ["007", "7"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "1\n2\n3\n", ["header"]),
        ("b.csv", "item,why\n,x\nb,y\n", ["row 2", "'item'"]),
        ("c.csv", "product,why\na,x\n", ["'item'", "product"]),
        ("d.parquet", "nonsense", ["d.parquet", "PAR1"]),
        ("e.txt", "", ["e.txt", "empty"]),
        ("f.txt.gz", "not gzip", ["f.txt.gz", "gzip"]),
        ("g.csv", "item,why\n", ["no rows"]),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_folder_is_no_list(tmp_path):
    with pytest.raises(DataError, match="folder"):
        read(tmp_path)


def test_an_absent_file_names_the_option(tmp_path):
    with pytest.raises(SettingsError, match=r"--allow .*none\.txt"):
        read(tmp_path / "none.txt")


def test_rows_that_are_known():
    vocabulary = Vocabulary.build(["a", "b", "c"], counts=[1, 3, 2])
    rows, unknown = known_rows(pa.array(["a", "z", "b", "y"]), vocabulary)
    assert (rows.tolist(), rows.dtype, unknown) == ([3, 5], np.int64, 2)
