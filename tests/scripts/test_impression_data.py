"""The impression tables of the measurements, made from a few rows of each public file's form."""

import importlib.util
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.impressions.row_split import split_rows
from peterrec.data.impressions.schema import SplitRule

SCRIPT = Path(__file__).parents[2] / "scripts" / "impression_data.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("impression_data_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def made(script, monkeypatch, capsys, *arguments: object) -> list[str]:
    """The words of the command that the script prints."""
    monkeypatch.setattr(sys, "argv", ["impression_data.py", *map(str, arguments)])
    script.main()
    return shlex.split(capsys.readouterr().out)


def values(command: list[str], option: str) -> list[str]:
    return [command[place + 1] for place, word in enumerate(command) if word == option]


@pytest.fixture
def movielens(tmp_path):
    """Files of 9 users with 3 to 19 ratings each, shuffled, one of them without a place in the order."""
    rng = np.random.default_rng(0)
    rows = [
        (user, 10 + place % 4, 1 + (user + place) % 5, place) for user in range(1, 10) for place in range(2 * user + 1)
    ]
    rows = [rows[place] for place in rng.permutation(len(rows))] + [(1, 10, 5, None)]
    ages = [1, 18, 25, 35, 45, 50, 56, 25, 18]
    tables = {
        "ratings": pa.table(
            dict(zip(("user", "item", "rating", "pos"), map(list, zip(*rows, strict=True)), strict=True))
        ),
        "users": pa.table({"user": range(1, 10), "gender": list("MFMFMFMFM"), "age": ages, "occupation": range(9)}),
        "items": pa.table(
            {
                "item": [10, 11, 12, 13],
                "title": ["Toy Story (1995)", "1900 (1976)", "Nameless", "City, The (a.k.a. (Town)) (2000) "],
                "genres": ["Drama|Crime", "Drama", "War", ""],
            }
        ),
    }
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    return [tmp_path / f"{name}.parquet" for name in tables], rows, ages


def test_movielens_rows_stand_in_each_users_order(script, movielens, tmp_path, monkeypatch, capsys):
    files, rows, ages = movielens
    command = made(script, monkeypatch, capsys, "movielens", *files, "--output", tmp_path / "out")
    table = pq.read_table(command[2])
    expected = sorted((user, place, item, rating) for user, item, rating, place in rows if place is not None)
    found = [tuple(row[name] for name in ("user", "time", "item", "rating")) for row in table.to_pylist()]
    assert found == expected
    group = {1: "young", 18: "young", 25: "middle", 35: "old", 45: "old", 50: "old", 56: "old"}
    assert table["age_group"].to_pylist() == [group[ages[user - 1]] for user, *_ in expected]
    year = {10: 1995, 11: 1976, 12: None, 13: 2000}
    assert table["year"].to_pylist() == [year[item] for _, _, item, _ in expected]
    fields = [field.split(":")[0] for field in values(command, "--field")]
    assert fields == ["user", "item", "gender", "age", "occupation", "genres", "year"]
    assert values(command, "--label") == ["click=rating>=4", "conversion=rating==5"]
    assert "rating" not in fields
    assert {*fields, "age_group", "time", "rating"} == set(table.column_names)


def test_the_encoder_sees_the_training_rows_alone(script, movielens, tmp_path, monkeypatch, capsys):
    files, _, _ = movielens
    command = made(script, monkeypatch, capsys, "movielens", *files, "--output", tmp_path / "out")
    table = pq.read_table(command[2], columns=["user", "item", "time"])
    earlier = pq.read_table(tmp_path / "out" / "movielens_earlier.parquet")
    user, time = (table[name].to_numpy().astype(np.int64) for name in ("user", "time"))
    split = split_rows(SplitRule(name="each_user"), rows=len(user), seed=0, user=user, time=time)
    assert earlier.to_pylist() == table.take(split.train).to_pylist()


def test_hillstrom_as_it_is_published(script, tmp_path, monkeypatch, capsys):
    file = tmp_path / "hillstrom.csv"
    file.write_text(
        "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend\n"
        "10,2) $100 - $200,142.44,1,0,Surburban,0,Phone,Womens E-Mail,1,0,0\n"
        "6,3) $200 - $350,329.08,1,1,Rural,1,Web,No E-Mail,1,1,9.99\n"
    )
    command = made(script, monkeypatch, capsys, "hillstrom", file, "--output", tmp_path / "out")
    table = pq.read_table(command[2])
    assert table["click"].to_pylist() == [1, 1]
    assert table["conversion"].to_pylist() == [0, 1]
    assert table["history"].to_pylist() == [142.44, 329.08]
    fields = [field.split(":")[0] for field in values(command, "--field")]
    assert values(command, "--domain") == ["channel"]
    assert {*fields, "channel", "click", "conversion"} == set(table.column_names)
    assert "spend" not in table.column_names


def test_census_as_it_is_published(script, tmp_path, monkeypatch, capsys):
    names = script.CENSUS.split()
    assert len(names) == len(set(names)) == 42
    cells = {name: "0" if name in script.CENSUS_NUMBERS else f"some {name}" for name in names}
    people = [
        {**cells, "marital_status": "Never married", "income_50k": "- 50000."},
        {**cells, "marital_status": "Divorced", "income_50k": "50000+.", "age": "50"},
    ]
    file = tmp_path / "census-income.data"
    file.write_text("".join(", ".join(person[name] for name in names) + "\n" for person in people))
    command = made(script, monkeypatch, capsys, "census", file, "--output", tmp_path / "out")
    table = pq.read_table(command[2])
    assert table["income"].to_pylist() == [0, 1]
    assert table["marital"].to_pylist() == [1, 0]
    assert table["age"].to_pylist() == [0, 50]
    assert table["education"].to_pylist() == ["some education"] * 2
    fields = dict(field.split(":") for field in values(command, "--field"))
    assert {*fields, "income", "marital"} == set(table.column_names)
    assert set(names) - set(fields) == {"income_50k", "marital_status", "instance_weight"}
    assert {name for name, kind in fields.items() if kind == "numeric"} == script.CENSUS_NUMBERS


def test_wrong_files_are_told(script, tmp_path, monkeypatch, capsys):
    for arguments, told in (
        (["movielens", "ratings.parquet"], "movielens takes 3 files, not 1"),
        (["census", tmp_path / "absent.data"], "absent.data: there is no such file"),
    ):
        with pytest.raises(SystemExit):
            made(script, monkeypatch, capsys, *arguments, "--output", tmp_path / "out")
        assert told in capsys.readouterr().err


def test_movielens_ratings_have_a_label_a_genre_and_no_field_that_tells_it(
    script, movielens, tmp_path, monkeypatch, capsys
):
    files, rows, _ = movielens
    monkeypatch.setattr(
        sys,
        "argv",
        ["impression_data.py", "movielens-ratings", *map(str, files), "--output", str(tmp_path / "out")],
    )
    script.main()
    known, new = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    assert [values(command, "--split") for command in (known, new)] == [["rows"], ["by_user"]]
    assert values(known, "--label") == values(new, "--label")
    assert values(known, "--label") == ["rating", "liked=rating>=4", "crime", "drama", "war"]
    fields = [field.split(":")[0] for field in values(known, "--field")]
    assert fields == ["user", "item", "gender", "age", "occupation", "year"]
    table = pq.read_table(known[2])
    expected = sorted((user, place, item, rating) for user, item, rating, place in rows if place is not None)
    found = [tuple(row[name] for name in ("user", "time", "item", "rating")) for row in table.to_pylist()]
    assert found == expected
    genres = {10: (1, 1, 0), 11: (0, 1, 0), 12: (0, 0, 1), 13: (0, 0, 0)}
    told = list(zip(*(table[name].to_pylist() for name in ("crime", "drama", "war")), strict=True))
    assert told == [genres[item] for _, _, item, _ in expected]
    assert script._label_of("Children's") == "childrens"
    assert script._label_of("Film-Noir") == "film_noir"
