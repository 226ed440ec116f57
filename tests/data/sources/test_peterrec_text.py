"""PeterRec and Conure text files against plain Python parsing."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.sources import detect, load
from peterrec.errors import DataError


def pairs(rows) -> list[tuple[str, str]]:
    table = rows if isinstance(rows, pa.Table) else pq.read_table(rows[0])
    return [(row["user"], row["item"]) for row in table.to_pylist()]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_sequences(tmp_path: Path) -> None:
    path = write(tmp_path / "pretrain.csv", "13373,18120,76920\n0,0,0,31544,51967\n31544,7\n")
    assert detect(path) == "peterrec_text"
    source = load(path)
    assert [user for user, _ in pairs(source.log)] == ["1", "1", "1", "2", "2", "3", "3"]
    assert [item for _, item in pairs(source.log)] == [
        "13373",
        "18120",
        "76920",
        "31544",
        "51967",
        "31544",
        "7",
    ]
    assert source.columns.time is None
    assert source.users is None
    assert source.targets is None


def test_single_target_is_a_label(tmp_path: Path) -> None:
    path = write(tmp_path / "gender.csv", "0,0,4,5,,1\n6,7,8,,0\n0,0,0,,2\n")
    source = load(path)
    assert pairs(source.log) == [("1", "4"), ("1", "5"), ("2", "6"), ("2", "7"), ("2", "8")]
    assert source.users is not None
    assert source.users.to_pylist() == [
        {"user": "1", "label": "1"},
        {"user": "2", "label": "0"},  # a class 0 is a class, not a pad
        {"user": "3", "label": "2"},
    ]


@pytest.mark.parametrize("in_memory", [True, False])
def test_several_targets_are_interactions(tmp_path: Path, in_memory: bool) -> None:
    path = write(tmp_path / "finetune.csv", "1,2,,1845,1846,1844\n3,4,,9\n")
    source = load(path, work=None if in_memory else tmp_path / "work")
    assert isinstance(source.log, pa.Table) == in_memory
    assert pairs(source.log) == [("1", "1"), ("1", "2"), ("2", "3"), ("2", "4")]
    assert source.targets is not None
    assert pairs(source.targets) == [("1", "1845"), ("1", "1846"), ("1", "1844"), ("2", "9")]
    assert source.users is None


def test_many_lines_keep_order_and_numbers(tmp_path: Path) -> None:
    draw = random.Random(0)
    lines, expected = [], []
    for number in range(1, 6_001):
        if number % 997 == 0:
            lines.append("")  # a blank line is a user without events, whose number is not given to the next
            continue
        items = [draw.randrange(1, 100_000) for _ in range(draw.randrange(1, 40))]
        expected += [(str(number), str(item)) for item in items]
        lines.append(",".join(map(str, [0] * (40 - len(items)) + items)))
    path = write(tmp_path / "long.txt", "\n".join(lines))
    assert pairs(load(path).log) == expected
    assert pairs(load(path, work=tmp_path / "work").log) == expected


@pytest.mark.parametrize("line", ["1,2,", "1,2,,", "1,,2,,3", "1,2,,,3", "1 2,3", "1,2,,3,", ",1", "1,\x1f,2"])
def test_malformed_lines_are_named(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "bad.csv", f"1,2,3,,1\n4,5,6,,2\n{line}\n7,8,,9\n")
    with pytest.raises(DataError, match=r"bad\.csv: 1 malformed rows; line 3: ") as caught:
        load(path, reader="peterrec_text")
    assert repr(line) in str(caught.value)


def test_mixed_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mixed.csv", "1,2,,3\n1,2\n4,5,,6\n")
    with pytest.raises(DataError, match="1 of 3 lines have no targets after two commas, the first is line 2"):
        load(path)


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sequences"):
        load(write(tmp_path / "empty.csv", ""), reader="peterrec_text")


@pytest.mark.parametrize(
    "text",
    [
        "user,item,time\n1,2,3\n",
        "1,2,3\n4,5,6\n",  # as likely a log without a header
        "",
        "1.5,2,3,4,5,6\n",
    ],
)
def test_ordinary_logs_are_not_taken(tmp_path: Path, text: str) -> None:
    assert detect(write(tmp_path / "log.csv", text)) is None


def test_padded_lines_of_one_width_are_taken(tmp_path: Path) -> None:
    assert detect(write(tmp_path / "padded.csv", "0,0,0,4,5\n0,0,1,2,3\n")) == "peterrec_text"
