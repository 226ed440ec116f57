"""Impressions from files to arrays: against a plain Python reading of the same rows, and everything that is refused."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.impressions import impression_folder
from peterrec.data.impressions.history import History
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.data.impressions.preparation import Sources, check_impressions, write_impressions
from peterrec.data.impressions.side_table import side_tables
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.errors import DataError, SettingsError

FIELDS = ("user", "item", "genres:multi", "price:numeric", "place", "age")
DAY = 86_400


def wanted(*fields: str, labels=("click", "conversion=rating==5"), split=None, fractions=None, **roles) -> Wanted:
    return Wanted(
        labels=tuple(map(parse_label, labels)),
        fields=tuple(map(parse_field, fields)),
        split=split_rule(split, fractions=fractions, user="user" in roles, time="time" in roles),
        **roles,
    )


def rows_of(number: int, *, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        rating = draw.randint(1, 5)
        rows.append(
            {
                "user": f"u{draw.randint(1, 9)}",
                "item": f"i{draw.randint(1, 12)}",
                "ts": 1_600_000_000 + DAY * draw.randint(0, 40),
                "rating": rating,
                "click": 1 if rating >= 4 else draw.choice([0, 0, None]),
                "genres": draw.choice(["a|b", "b", "", " c | a ", "a|a"]),
                "price": draw.choice([1.5, 20, None, 3.25]),
                "place": draw.choice(["home", " shop ", "", "away"]),
                "age_group": draw.choice(["10", "9", "old", ""]),
                "w": draw.choice([1, 0.5, 2]),
            }
        )
    return rows


def as_csv(rows: list[dict], path: Path) -> Path:
    lines = [",".join(rows[0])]
    lines += [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def as_json(rows: list[dict], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def as_parquet(rows: list[dict], path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


ROLES = {"user": "user", "item": "item", "time": "ts", "domain": "age_group", "weight": "w"}


@pytest.fixture
def users(tmp_path) -> Path:
    path = tmp_path / "users.csv"  # u9 is not in it
    path.write_text("user,age,job\n" + "".join(f"u{n},{20 + n},j{n % 2}\n" for n in range(1, 9)))
    return path


def value(row: dict, name: str) -> str | None:
    found = "" if row[name] is None else str(row[name]).strip()
    return found or None


@pytest.mark.parametrize("write", [as_csv, as_json, as_parquet])
def test_every_cell_is_what_a_plain_reading_gives(tmp_path, users, write):
    rows = rows_of(300)
    half = [write(rows[:170], tmp_path / f"a.{write.__name__[3:]}l"[: -1 if write is not as_json else None])]
    half.append(as_csv(rows[170:], tmp_path / "b.csv"))  # formats may be mixed
    sources = Sources(half, side_tables(users=users))
    found = write_impressions(sources, wanted(*FIELDS, **ROLES), folder=tmp_path / "out")
    assert impression_folder(tmp_path / "out")
    assert len(found) == len(rows)
    np.testing.assert_array_equal(found.position, np.arange(len(rows)))
    assert [found.user_ids[n] for n in found.user] == [row["user"] for row in rows]
    assert [found.item_ids[n] for n in found.item] == [row["item"] for row in rows]
    assert list(found.user_ids) == sorted({row["user"] for row in rows})
    np.testing.assert_array_equal(found.time, [row["ts"] * 10**6 for row in rows])
    np.testing.assert_array_equal(found.weight, [row["w"] for row in rows])
    np.testing.assert_array_equal(
        found.labels["click"], [np.nan if row["click"] is None else row["click"] for row in rows]
    )
    np.testing.assert_array_equal(found.labels["conversion"], [float(row["rating"] == 5) for row in rows])
    assert found.schema.domains == ("9", "10", "old")
    assert [None if n < 0 else found.schema.domains[n] for n in found.domain] == [value(r, "age_group") for r in rows]

    ages = {f"u{n}": str(20 + n) for n in range(1, 9)}
    expected = {
        "user": [row["user"] for row in rows],
        "item": [row["item"] for row in rows],
        "place": [value(row, "place") for row in rows],
        "age": [ages.get(row["user"]) for row in rows],
    }
    assert found.schema.of_kind("categorical") == tuple(expected)
    for column, (name, values) in enumerate(expected.items()):
        listed = [None, *found.values(name)]
        assert [listed[code] for code in found.categorical[:, column]] == values
        assert listed[1:] == sorted(set(values) - {None})
    np.testing.assert_array_equal(
        found.numeric_field("price"), np.array([np.nan if r["price"] is None else r["price"] for r in rows], np.float32)
    )
    ((codes, offsets),) = found.multi
    bags = [[m.strip() for m in row["genres"].split("|") if m.strip()] for row in rows]
    assert [[found.values("genres")[c - 1] for c in codes[a:b]] for a, b in itertools.pairwise(offsets)] == bags
    assert {field.name: field.table for field in found.schema.fields}["age"] == "users"
    assert found.summary["labels"]["click"]["missing"] == sum(row["click"] is None for row in rows)
    assert (found.history, found.before, found.vocabulary) == (None, None, None)


def test_the_same_rows_give_the_same_fingerprint_whatever_the_format(tmp_path):
    rows = rows_of(80)
    prints = [
        write_impressions(
            Sources(write(rows, tmp_path / name), {}),
            wanted("place", "price:numeric", **ROLES),
            folder=tmp_path / name[:2],
        ).fingerprint
        for write, name in ((as_csv, "c.csv"), (as_json, "j.jsonl"), (as_parquet, "p.parquet"))
    ]
    assert len(set(prints)) == 1
    rows[3]["place"] = "elsewhere"
    other = write_impressions(
        Sources(as_csv(rows, tmp_path / "c.csv"), {}), wanted("place", "price:numeric", **ROLES), folder=tmp_path / "c."
    )
    assert other.fingerprint not in prints


def test_kinds_are_told_by_the_values(tmp_path):
    table = pa.table(
        {
            "user": pa.array(range(250)),
            "much": pa.array(np.arange(250) / 4),
            "few": pa.array([n % 100 for n in range(250)]),
            "word": pa.array([f"w{n}" for n in range(250)]),
            "bag": pa.array([[1, 2], [], None, [3], [2]] * 50),
            "flag": pa.array([True, False, None, True, True] * 50),
            "whole": pa.array([1.0, 2.0, None, 2.5, 1.0] * 50),
            "click": pa.array([0, 1] * 125),
        }
    )
    names = ["user", "much", "few", "word", "bag", "flag", "whole"]
    found = write_impressions(
        Sources(table, {}), wanted(*names, labels=["click"], user="user"), folder=tmp_path / "out"
    )
    kinds = {field.name: field.kind for field in found.schema.fields}
    assert kinds == {
        "user": "categorical",  # ids are, however many numbers they are
        "much": "numeric",
        "few": "categorical",
        "word": "categorical",
        "bag": "multi",
        "flag": "categorical",
        "whole": "categorical",
    }
    assert found.values("flag") == ["false", "true"]
    assert found.values("whole") == ["1", "2", "2.5"]  # a column of whole numbers with gaps reads as one without
    assert found.values("bag") == ["1", "2", "3"]
    assert found.multi[0][1][:6].tolist() == [0, 2, 2, 2, 3, 4]


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint8(), pa.uint32(), pa.int64(), pa.float32(), pa.float64(), pa.decimal128(9, 2), pa.string()],
)
def test_numbers_of_every_type(tmp_path, kind):
    numbers = [3, None, 7, 120]
    if kind == pa.string():
        column = pa.array(["3", " ", "7", "1.2e2"])
    else:
        column = pa.array(numbers, pa.float64()).cast(kind)
    table = pa.table(
        {"x": column, "y": column, "of": pa.array(["b", None, "a", "b"]).dictionary_encode(), "click": [0, 1, 1, 0]}
    )
    found = write_impressions(
        Sources(table, {}), wanted("x:numeric", "of", labels=["click", "big=y>5"]), folder=tmp_path / "out"
    )
    np.testing.assert_array_equal(found.numeric_field("x"), [3, np.nan, 7, 120])
    np.testing.assert_array_equal(found.labels["big"], [0, np.nan, 1, 1])
    assert found.categorical[:, 0].tolist() == [2, 0, 1, 2]


def history_of(events: list[tuple[str, str, int]], path: Path, known: list[str]) -> History:
    path.write_text("who,what,at\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    vocabulary = Vocabulary.build(known, counts=range(len(known), 0, -1))
    return History(path, LogColumns("who", "what", "at"), vocabulary)


def test_the_history_before_a_row_holds_no_event_of_its_time_or_later(tmp_path):
    draw = random.Random(5)
    rows = rows_of(200, seed=1)
    events = [
        (f"u{draw.randint(3, 11)}", f"i{draw.randint(1, 15)}", 1_600_000_000 + DAY * draw.randint(0, 40))
        for _ in range(400)
    ]
    known = [f"i{n}" for n in range(1, 11)]
    history = history_of(events, tmp_path / "log.csv", known)
    found = write_impressions(
        Sources(as_csv(rows, tmp_path / "rows.csv"), {}, history), wanted("item", **ROLES), folder=tmp_path / "out"
    )
    assert found.history is not None
    assert found.before is not None
    assert found.item_row is not None
    assert list(found.history.users) == list(found.user_ids)
    ties = 0
    for place, row in enumerate(rows):
        own = sorted(((t, n, i) for n, (u, i, t) in enumerate(events) if u == row["user"] and i in known))
        expected = [history.vocabulary.rows([i])[0] for t, _, i in own if t < row["ts"]]
        ties += any(t == row["ts"] for t, *_ in own)
        number = found.user[place]
        assert found.history.items_of(number)[: found.before[place]].tolist() == expected
        assert found.history.lengths[number] == len(own)
        row_of_item = known.index(row["item"]) + FIRST_ITEM if row["item"] in known else 0
        assert found.item_row[place] == row_of_item
    assert ties > 20
    assert found.vocabulary is not None
    assert found.vocabulary.fingerprint == history.vocabulary.fingerprint
    assert found.summary["history"]["rows_without_events_before"] == int((found.before == 0).sum())


def test_histories_that_cannot_be_joined(tmp_path):
    rows = Sources(as_csv(rows_of(40), tmp_path / "rows.csv"), {}).rows
    now = 1_600_000_000

    def refuse(events, known, **roles):
        history = history_of(events, tmp_path / "log.csv", known)
        with pytest.raises((DataError, SettingsError)) as error:
            write_impressions(Sources(rows, {}, history), wanted("item", **roles), folder=tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "no user of the impressions (such as 'u1')" in refuse([("x", "i1", now)], ["i1"], **ROLES)
    assert "knows no item of the history (such as 'z'" in refuse([("u1", "z", now)], ["i1"], **ROLES)
    assert "times of the history are small numbers" in refuse([("u1", "i1", 3)], ["i1"], **ROLES)
    assert "--history is joined by the user and the time" in refuse([("u1", "i1", now)], ["i1"], user="user")
    with pytest.raises(SettingsError, match="--history-time"):
        History(tmp_path / "log.csv", LogColumns("who", "what", None), Vocabulary.build(["a"], counts=[1]))


BASE = {"user": "u1", "item": "i1", "ts": 1_600_000_000, "click": 0, "buy": 0, "price": "1", "w": "1"}


@pytest.mark.parametrize(
    ("change", "column", "told"),
    [
        ({"click": "perhaps"}, "click", "not a number; a label is 0 or 1"),
        ({"click": "inf"}, "click", "not a number"),
        ({"price": "cheap"}, "price", "call the field price:categorical"),
        ({"w": ""}, "w", "the weight is missing"),
        ({"w": "-1"}, "w", "below 0"),
        ({"w": "heavy"}, "w", "weights are numbers"),
        ({"ts": "yesterday"}, "ts", "not a time"),
        ({"user": ""}, "user", "the id is missing"),
        ({"click": 0, "buy": 1}, "buy", "a conversion without a click"),
    ],
)
def test_a_bad_row_is_named_and_can_be_left_out(tmp_path, change, column, told):
    good = [dict(BASE), BASE | {"click": 1}, BASE | {"click": 1, "buy": 1}, BASE | {"click": ""}]
    path = as_csv([*good[:2], BASE | change, *good[2:]], tmp_path / "rows.csv")
    asked = wanted(
        "item", "price:numeric", labels=["click", "conversion=buy"], user="user", time="ts", weight="w", split="rows"
    )
    report = check_impressions(Sources(path, {}), asked)
    (problem,) = [p for p in report.problems if p.severity == "bad_row"]
    assert (problem.file, problem.row, problem.column, problem.count) == (str(path), 4, column, 1)
    assert told in problem.fix
    assert report.bad_rows == 1
    with pytest.raises(DataError, match=f"row 4, column '{column}'"):
        write_impressions(Sources(path, {}), asked, folder=tmp_path / "out")
    found = write_impressions(Sources(path, {}), asked, folder=tmp_path / "out", bad_rows="drop")
    assert found.position.tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(found.labels["click"], [0, 1, 1, np.nan])


def test_an_error_says_why_no_row_can_be_used(tmp_path):
    path = as_csv(
        [BASE | {"click": "- 50000."}, BASE | {"click": "50000+"}, BASE | {"click": "n"}], tmp_path / "rows.csv"
    )
    with pytest.raises(DataError, match=r"no row can be used; in 3 rows the column 'click' holds .* not a number"):
        write_impressions(Sources(path, {}), wanted("item", labels=["click", "x=ts>7"]), folder=tmp_path / "out")


def fatal(tmp_path, rows: list[dict], asked: Wanted, **side) -> str:
    report = check_impressions(Sources(as_csv(rows, tmp_path / "rows.csv"), side_tables(**side)), asked)
    assert report.fatal
    return "\n".join(str(problem) for problem in report.problems if problem.severity == "fatal")


def test_labels_that_teach_nothing(tmp_path):
    rows = [BASE | {"click": 1, "buy": ""} for _ in range(3)]
    told = fatal(tmp_path, rows, wanted("item", labels=["click", "buy", "long=price>7"]))
    assert "'click' is 1 in all 3 rows that have it: there is no negative row" in told
    assert "'buy' is missing in all rows" in told
    assert "'long' is 0 in all 3 rows that have it: there is no positive row" in told


def test_a_label_in_disguise_is_no_field(tmp_path):
    draw = random.Random(0)
    rows = []
    for _ in range(60):
        click, like = draw.randint(0, 1), draw.randint(0, 1)
        rows.append(
            {"click": click, "like": like, "same": click, "not": 1 - like, "both": click * like, "x": like + click}
        )
    for name, what in (
        ("same", "label 'click'"),
        ("not", "label 'like'"),
        ("both", "product of the labels click × like"),
    ):
        told = fatal(tmp_path, rows, wanted(name, "x", labels=["click", "like"]))
        assert f"column '{name}': equals the {what}" in told
        assert told.count("column") == 1
    assert "column 'same'" in fatal(tmp_path, rows, wanted("x", labels=["click"], domain="same"))
    rows[7]["same"] = 1 - rows[7]["same"]  # one row that differs, and it is a field like any other
    report = check_impressions(Sources(as_csv(rows, tmp_path / "rows.csv"), {}), wanted("same", labels=["click"]))
    assert report.ok


def test_columns_and_tables_that_are_not_there(tmp_path, users):
    rows = [dict(BASE), BASE | {"click": 1}]
    told = fatal(tmp_path, rows, wanted("itm", labels=["click"]))
    assert "column 'itm': there is no such column. Did you mean 'item'?" in told
    assert str(tmp_path / "rows.csv") in told
    strangers = tmp_path / "items.csv"
    strangers.write_text("item,brand\n7,x\n")
    told = fatal(tmp_path, rows, wanted("brand", labels=["click"], item="item"), items=strangers)
    assert "none of these items is among the impressions" in told
    nested = pa.table({"click": [0, 1], "deep": [{"a": 1}, {"a": 2}]})
    report = check_impressions(Sources(nested, {}), wanted("deep", labels=["click"]))
    assert "fields are numbers, text, or lists" in str(report.problems[0])
    with pytest.raises(SettingsError, match="--users is joined by the user of a row"):
        check_impressions(Sources(nested, side_tables(users=users)), wanted("age", labels=["click"]))


def test_lists_and_objects_where_one_value_belongs(tmp_path):
    rows = [{"click": 0, "f": "a"}, {"click": [1], "f": ["a"]}, {"click": 1, "f": {"a": 1}}, {"click": 1, "f": None}]
    path = as_json(rows, tmp_path / "rows.jsonl")
    report = check_impressions(Sources(path, {}), wanted("f:categorical", labels=["click"]))
    told = {(p.rule, p.column, p.row) for p in report.problems if p.severity == "bad_row"}
    assert told == {("several_values", "click", 2), ("several_values", "f", 2), ("object_value", "f", 3)}


def test_items_of_a_table_and_numeric_labels(tmp_path):
    rows = [BASE | {"item": f"i{n % 3}", "dwell": n} for n in range(9)]
    items = pa.table({"item": ["i0", "i1"], "brand": ["x", "y"], "tags": [["p", "q"], []]})
    found = write_impressions(
        Sources(as_csv(rows, tmp_path / "r.csv"), side_tables(items=items, items_column="item")),
        wanted("brand", "tags", labels=["dwell", "cheap=item!=i1", "short=dwell<3"], item="item"),
        folder=tmp_path / "out",
    )
    np.testing.assert_array_equal(found.labels["dwell"], np.arange(9))
    np.testing.assert_array_equal(found.labels["cheap"], [n % 3 != 1 for n in range(9)])
    np.testing.assert_array_equal(found.labels["short"], [n < 3 for n in range(9)])
    assert found.categorical[:, 0].tolist() == [1, 2, 0] * 3
    assert found.multi[0][1].tolist() == [0, 2, 2, 2, 4, 4, 4, 6, 6, 6]
    assert any("are not in this table" in note for note in found.summary["notes"])


def test_folders_that_are_none_or_damaged(tmp_path):
    rows = as_csv(rows_of(40), tmp_path / "rows.csv")
    asked = wanted("place", **ROLES)
    folder = tmp_path / "out"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(SettingsError, match="holds something else"):
        write_impressions(Sources(rows, {}), asked, folder=tmp_path / "other")
    with pytest.raises(DataError, match="no impressions"):
        open_impressions(tmp_path / "other")
    write_impressions(Sources(rows, {}), asked, folder=folder)
    assert isinstance(write_impressions(Sources(rows, {}), asked, folder=folder), Impressions)  # replaced
    np.save(folder / "user.npy", np.zeros(3, np.int64))
    with pytest.raises(DataError, match=r"no impressions \(user.npy holds int64 \(3,\)\)"):
        open_impressions(folder)
    (folder / "labels.npy").unlink()
    with pytest.raises(DataError, match="prepare them again"):
        open_impressions(folder)
