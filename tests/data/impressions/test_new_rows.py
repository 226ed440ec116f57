"""New rows for a model: the same cells by the same schema, in their own order, labels and histories optional."""

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.impressions.history import History
from peterrec.data.impressions.impressions import open_impressions
from peterrec.data.impressions.new_rows import read_rows
from peterrec.data.impressions.preparation import Sources, write_impressions
from peterrec.data.impressions.schema import Schema
from peterrec.data.impressions.side_table import side_tables
from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError, SettingsError

NOW = 1_600_000_000
ROWS = {
    "user": ["b", "a", "c", "a"],
    "item": ["x", "y", "x", "z"],
    "at": [NOW, NOW + 5, NOW + 9, NOW + 9],
    "rating": [5, 1, 4, 2],
    "page": ["home", "shop", "home", None],
    "price": [1.0, None, 2.5, 3.0],
    "tags": ["p|q", "", "q", "r"],
    "position": [1, 2, 3, 4],
    "area": ["n", "s", "n", "s"],
    "w": [1, 1, 2, 2],
}
PEOPLE = pa.table({"user": ["a", "b"], "age": ["young", "old"]})
FIELDS = ("item", "page", "price:numeric", "tags:multi", "position:numeric", "age")


@pytest.fixture
def schema(tmp_path) -> Schema:
    wanted = Wanted(
        labels=(parse_label("click=rating>=4"),),
        fields=tuple(map(parse_field, FIELDS)),
        user="user",
        item="item",
        time="at",
        domain="area",
        weight="w",
        split=split_rule(None, fractions=None, user=True, time=True),
    )
    sources = Sources(pa.table(ROWS), side_tables(users=PEOPLE))
    found = write_impressions(sources, wanted, folder=tmp_path / "data")
    return Schema.from_json(found.schema.to_json())  # as a model keeps it


def test_the_rows_that_were_learned_from_read_the_same(schema, tmp_path):
    before = open_impressions(tmp_path / "data")
    with read_rows(pa.table(ROWS), schema, side=side_tables(users=PEOPLE)) as found:
        for name in ("user", "item", "time", "domain", "categorical", "numeric"):
            np.testing.assert_array_equal(getattr(found, name), getattr(before, name))
        np.testing.assert_array_equal(found.labels["click"], before.labels["click"])
        assert found.values("page") == before.values("page")
        assert found.weight is None
        folder = found.folder
    assert not folder.exists()


def test_labels_times_and_optional_fields_may_be_absent(schema):
    rows = pa.table(
        {
            "item": ["z", "new", "x"],
            "page": ["home", "", "attic"],
            "price": ["2", "", "7.5"],
            "tags": [["q", "new"], None, []],
            "age": ["old", "older", None],  # in the rows themselves now
            "area": ["s", "moon", None],
        }
    )
    with read_rows(rows, schema, optional=["position"]) as found:
        assert len(found) == 3
        assert np.isnan(found.labels["click"]).all()
        assert found.domain.tolist() == [1, -1, -1]
        assert found.schema.domains == ("n", "s")
        np.testing.assert_array_equal(found.numeric_field("position"), [np.nan] * 3)
        np.testing.assert_array_equal(found.numeric_field("price"), [2, np.nan, 7.5])
        column = found.schema.of_kind("categorical").index("page")
        assert [[None, *found.values("page")][c] for c in found.categorical[:, column]] == ["home", None, "attic"]
        assert found.multi[0][1].tolist() == [0, 2, 2, 2]
        assert (found.time, found.schema.users, found.user.tolist()) == (None, False, [-1] * 3)
    with pytest.raises(DataError, match="column 'position': there is no such column"), read_rows(rows, schema):
        pass


def test_bad_rows_are_named_and_places_kept(schema):
    rows = pa.table({**ROWS, "price": ["1", "x", "3", "4"]})
    with (
        pytest.raises(DataError, match="row 2, column 'price', value 'x'"),
        read_rows(rows, schema, side=side_tables(users=PEOPLE)),
    ):
        pass
    with read_rows(rows, schema, side=side_tables(users=PEOPLE), bad_rows="drop") as found:
        assert found.position.tolist() == [0, 2, 3]


@pytest.mark.parametrize("timed", [True, False])
def test_histories_end_before_the_row_or_are_whole_without_times(schema, tmp_path, timed):
    log = tmp_path / "log.csv"
    events = [("a", "x", NOW + 1), ("a", "q", NOW + 2), ("a", "y", NOW + 5), ("a", "z", NOW + 7), ("c", "y", NOW + 9)]
    log.write_text("user,item,at\n" + "".join(f"{u},{i},{t}\n" for u, i, t in events))
    vocabulary = Vocabulary.build(["x", "y", "z"], counts=[3, 2, 1])
    history = History(log, LogColumns(time="at"), vocabulary)
    rows = pa.table({name: values for name, values in ROWS.items() if timed or name != "at"})
    with read_rows(rows, schema, side=side_tables(users=PEOPLE), history=history) as found:
        assert found.history is not None
        assert found.before is not None
        assert found.item_row is not None
        before = [found.history.items_of(u)[:n].tolist() for u, n in zip(found.user, found.before, strict=True)]
        assert before == ([[], [3], [], [3, 4, 5]] if timed else [[], [3, 4, 5], [4], [3, 4, 5]])
        assert found.item_row.tolist() == [3, 4, 3, 5]
    strangers = pa.table({**ROWS, "user": ["n1", "n2", "n3", "n4"]})  # nobody has a history yet: no mistake
    with read_rows(strangers, schema, history=history, optional=["age"]) as found:
        assert found.before is not None
        assert found.before.tolist() == [0] * 4


def test_a_table_need_not_know_the_users_of_new_rows(schema):
    strangers = pa.table({**ROWS, "user": ["n1", "n2", "n3", "n4"]})
    with read_rows(strangers, schema, side=side_tables(users=PEOPLE)) as found:
        age = found.schema.of_kind("categorical").index("age")
        assert found.categorical[:, age].tolist() == [0] * 4


def test_a_table_is_joined_by_a_column_that_must_be_there(schema):
    rows = pa.table({name: values for name, values in ROWS.items() if name != "user"})
    with pytest.raises(DataError, match="column 'user': there is no such column"):
        read_rows(rows, schema, side=side_tables(users=PEOPLE)).__enter__()
    with pytest.raises(SettingsError, match="--users is missing: the model reads age of a table of users"):
        read_rows(pa.table(ROWS), schema).__enter__()
    with pytest.raises(SettingsError, match="nothing joins this table"):
        read_rows(pa.table(ROWS), schema.model_copy(update={"user": None}), side=side_tables(users=PEOPLE)).__enter__()
