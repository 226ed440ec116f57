"""The names of a log's columns, before it is read."""

import gzip

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from peterrec.data.logs.column_names import column_names

TABLE = pa.table({"user": ["a"], "item": ["b"], "at": [1]})
NAMES = ("user", "item", "at")


def test_every_format(tmp_path):
    text = {
        "log.csv": "user,item,at\na,b,1\n",
        "log.tsv": "user\titem\tat\na\tb\t1\n",
        "semicolons.csv": "user;item;at\na;b;1\n",
        "log.jsonl": '{"user": "a", "item": "b", "at": 1}\n',
    }
    for name, content in text.items():
        (tmp_path / name).write_text(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    pq.write_table(TABLE, tmp_path / "log.parquet")
    feather.write_feather(TABLE, str(tmp_path / "log.feather"))
    with pa.ipc.new_stream(tmp_path / "log.arrow", TABLE.schema) as stream:
        stream.write_table(TABLE)
    names = [*text, *(f"{name}.gz" for name in text), "log.parquet", "log.feather", "log.arrow"]
    for name in names:
        assert column_names([str(tmp_path / name)], wanted=["user", "item"]) == NAMES, name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", b""),
        ("log.csv", b"a,b,1700000000\n"),
        ("log.csv.gz", b"user,item"),
        ("log.csv.gz", gzip.compress(b"user,item\n" * 9999)[:60]),
        ("log.parquet", b"PAR1 and no more"),
        ("log.arrow", b"ARROW1 and no more"),
        ("log.jsonl", b"{broken\n"),
    ],
    # Named here: gzip writes the second of its making, and workers must collect the same names.
    ids=["empty", "headless", "gzip of nothing", "gzip cut short", "parquet", "arrow", "jsonl"],
)
def test_what_cannot_be_read_has_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert column_names([str(tmp_path / name)], wanted=["user"]) == ()
    assert column_names([str(tmp_path / "absent.csv")]) == ()
