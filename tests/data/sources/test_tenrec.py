"""Tenrec CSVs in the layouts of its files."""

import csv
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.sources import detect, load, tenrec
from peterrec.errors import DataError, SettingsError

VIDEO = "user_id,item_id,click,follow,like,share,video_category,watching_times,gender,age"
CTR = VIDEO + "," + ",".join(f"hist_{n}" for n in range(1, 11))
ARTICLE = (
    "user_id,item_id,click,gender,age,exposure_count,click_count,like_count,comment_count,read_percentage,"
    "item_score1,item_score2,category_second,category_first,item_score3,read,read_time,share,like,follow,favorite"
)


def pairs(source) -> list[tuple[str, str]]:
    table = source.log if isinstance(source.log, pa.Table) else pq.read_table(source.log[0])
    return [(row["user"], row["item"]) for row in table.to_pylist()]


def write(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize("in_memory", [True, False])
def test_video(tmp_path: Path, in_memory: bool) -> None:
    path = write(
        tmp_path / "QK-video.csv",
        VIDEO,
        "1,4,0,0,0,0,1,0,1,4",
        r"1,1201,1,0,0,0,\N,1,1,4",
        "2,4,1,0,1,0,1,1,0,3",
        "10,9,1,0,0,0,1,1,2,0",
        "1,7,1,0,0,0,1,3,1,4",
    )
    assert detect(path) == "tenrec"
    source = load(path, work=None if in_memory else tmp_path / "work")
    assert pairs(source) == [("1", "1201"), ("2", "4"), ("10", "9"), ("1", "7")]
    assert source.columns.time is None
    assert source.users is not None
    assert source.users.to_pylist() == [
        {"user": "1", "gender": "1", "age": "4"},
        {"user": "2", "gender": None, "age": "3"},  # 0 is unknown
        {"user": "10", "gender": "2", "age": None},
    ]
    assert "4 of 5 rows" in source.note


def test_other_behaviour(tmp_path: Path) -> None:
    path = write(tmp_path / "QB-video.csv", VIDEO, "1,4,1,0,0,0,1,0,1,4", "1,5,1,0,1,0,1,0,1,4")
    assert pairs(tenrec.load(path, behaviour="like")) == [("1", "5")]
    with pytest.raises(SettingsError, match=r"no behaviour 'likes' in this file. Did you mean 'like'"):
        tenrec.load(path, behaviour="likes")


def test_ctr_and_article(tmp_path: Path) -> None:
    history = "2,3,80936,781,111774,1230,26403,991,2362,1202"
    ctr = write(tmp_path / "ctr_data_1M.csv", CTR, f"1,4,0,0,0,0,1,0,1,4,{history}", f"1,5,1,0,0,0,1,0,1,4,{history}")
    assert pairs(load(ctr)) == [("1", "5")]
    rest = r",1,2,3,4,5,0.1,0.2,1,\N,0.3,1,20,0,0,0,0"
    article = write(tmp_path / "QK-article.csv", ARTICLE, f"7.0,12.0,1.0,1.0,3.0{rest}", f"8,10,0,1,3{rest}")
    source = load(article)
    assert pairs(source) == [("7", "12")], "7.0 and 7 are one user"
    assert source.users is not None
    assert source.users["age"].to_pylist() == ["3", "3"]


def test_conflicting_attributes_are_reported(tmp_path: Path) -> None:
    people = ("1,4", "2,4"), ("0,4", "1,4")  # gender and age in the two rows of users 1 and 2
    rows = [f"{user},5,1,0,0,0,1,0,{seen}" for user, both in enumerate(people, start=1) for seen in both]
    path = write(tmp_path / "t.csv", VIDEO, *rows)
    source = load(path)
    assert source.users is not None
    assert source.users.to_pylist() == [
        {"user": "1", "gender": None, "age": "4"},
        {"user": "2", "gender": "1", "age": "4"},  # unknown in one row, known in another: no conflict
    ]
    assert "gender: 1 users have different values in different rows (one is 1)" in source.note
    assert "age:" not in source.note


def test_against_plain_python(tmp_path: Path) -> None:
    draw = random.Random(1)
    path = tmp_path / "big.csv"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(VIDEO.split(","))
        for _ in range(50_000):
            user = draw.randrange(1, 500)
            gender, age = user % 3, user % 5
            out.writerow([user, draw.randrange(9999), draw.randrange(2), 0, 0, 0, r"\N", 1, gender, age])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    source = load(path, work=tmp_path / "work")
    assert pairs(source) == [(row["user_id"], row["item_id"]) for row in rows if row["click"] == "1"]
    expected = {row["user_id"]: (row["gender"], row["age"]) for row in rows}
    assert source.users is not None
    found = {row["user"]: (row["gender"] or "0", row["age"] or "0") for row in source.users.to_pylist()}
    assert found == {user: value for user, value in expected.items() if value != ("0", "0")}


@pytest.mark.parametrize(
    "row",
    [
        "1,4,1,0,0,0,1,0,1",
        "1,4,1,0,0,0,1,0,1,4,5",
        ",4,1,0,0,0,1,0,1,4",
        r"1,\N,1,0,0,0,1,0,1,4",
        "1,4,yes,0,0,0,1,0,1,4",
        "1,4,,0,0,0,1,0,1,4",
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, row: str) -> None:
    good = "1,4,1,0,0,0,1,0,1,4"
    path = write(tmp_path / "bad.csv", VIDEO, good, row, good)
    with pytest.raises(DataError, match=r"bad\.csv: 1 malformed rows; line 3: ") as caught:
        load(path)
    assert repr(row) in str(caught.value)


def test_nothing_clicked_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row of 1 has click = 1"):
        load(write(tmp_path / "a.csv", VIDEO, "1,4,0,0,0,0,1,0,1,4"))
    with pytest.raises(DataError, match="no rows after the header"):
        load(write(tmp_path / "b.csv", VIDEO))


def test_own_logs_are_not_taken(tmp_path: Path) -> None:
    assert detect(write(tmp_path / "a.csv", "user_id,item_id,click,timestamp,gender,age", "1,2,1,5,1,1")) is None
    assert detect(write(tmp_path / "b.csv", "user_id,item_id", "1,2")) is None
    with pytest.raises(DataError, match=r"no column 'item_id'. Did you mean 'itemid'"):
        load(write(tmp_path / "c.csv", "user_id,itemid,click", "1,2,1"), reader="tenrec")
