"""Tables of predictions: what is read of them, and that no row both tunes and tests."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.errors import DataError, SettingsError
from peterrec.fusion.goal import Goal
from peterrec.fusion.predictions import of_table, read_table


def table(rows=200, users=20, seed=0, **more):
    rng = np.random.default_rng(seed)
    columns = {
        "row": np.arange(rows),
        "user": [f"u{n}" for n in rng.integers(0, users, rows)],
        "click": rng.integers(0, 2, rows).astype(np.float32),
        "dwell": rng.random(rows),
        "p_ctr": rng.random(rows).astype(np.float32),
        "p_cvr": rng.random(rows),
    }
    return pa.table(columns | more)


def test_columns_become_predictions_labels_and_users():
    found = of_table(table(), origin="t")
    assert list(found.predicted) == ["ctr", "cvr"]
    assert list(found.labels) == ["click", "dwell"]
    assert found.binary_labels() == ["click"]
    assert found.users
    assert (found.lists == found.clusters).all()


def test_a_user_tunes_or_tests_and_never_both():
    found = of_table(table(), origin="t", tune_share=0.3, seed=3)
    assert (found.tuned ^ found.tested).all()
    assert not set(found.clusters[found.tuned]) & set(found.clusters[found.tested])
    assert len(set(found.clusters[found.tuned])) == 6
    assert (of_table(table(), origin="t", tune_share=0.3, seed=4).tuned != found.tuned).any()


def test_the_parts_do_not_hang_on_the_order_of_the_rows():
    original = table()
    order = np.random.default_rng(1).permutation(len(original))
    a, b = of_table(original, origin="t"), of_table(original.take(order), origin="t")
    assert (a.tuned[order] == b.tuned).all()


def test_seeds_are_apart_and_lists_are_within_users():
    time = np.random.default_rng(5).integers(0, 3, 200)
    found = of_table(
        table(seed=1).append_column("seed", pa.array(np.arange(200) % 2)).append_column("time", [time]),
        origin="t",
        within="time",
    )
    assert [set(found.seeds[rows]) for rows in found.rows(found.tuned)] == [{0}, {1}]
    assert "seed" not in found.labels
    pairs = set(zip(found.clusters.tolist(), time.tolist(), strict=True))
    assert len(set(found.lists)) == len(pairs) == len(set(zip(found.lists, found.clusters, time, strict=True)))


def test_rows_are_drawn_where_there_are_no_users():
    found = of_table(table().drop_columns(["user"]), origin="t")
    assert not found.users
    assert found.tuned.sum() == 100
    with pytest.raises(SettingsError, match="has no users; take click/auc"):
        found.check([Goal("click", "gauc")])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.drop_columns(["p_ctr", "p_cvr"]), "there are no predictions"),
        (lambda t: t.slice(0, 0), "there are no rows"),
        (lambda t: t.append_column("model", pa.array(["a", "b"] * 100)), "predictions of 2 models"),
        (lambda t: t.set_column(1, "user", pa.array([None] * 200, pa.string())), "column 'user', row 1: is missing"),
        (lambda t: t.append_column("p_x", pa.array(["a"] * 200)), "column 'p_x': holds string"),
    ],
)
def test_tables_that_cannot_be_used_are_told(change, told):
    with pytest.raises(DataError, match=told):
        of_table(change(table()), origin="t")


@pytest.mark.parametrize("words", [{"user": "customer"}, {"within": "request"}])
def test_columns_that_are_not_there_are_told(words):
    with pytest.raises(SettingsError, match="has no such column"):
        of_table(table(), origin="t", **words)


@pytest.mark.parametrize(
    ("label", "kind", "told"),
    [
        ("clik", SettingsError, "Did you mean 'click'"),
        ("ctr", SettingsError, "ctr is a prediction; a metric names the label"),
        ("dwell", DataError, "labels 0 and 1"),
        ("never", DataError, "are all 0"),
        ("unknown", DataError, "are all missing"),
    ],
)
def test_labels_that_cannot_be_used_are_told(label, kind, told):
    found = of_table(table(never=np.zeros(200), unknown=pa.nulls(200, pa.float64())), origin="t")
    with pytest.raises(kind, match=told):
        found.check([Goal(label, "auc")])


def test_files_that_cannot_be_read_are_told(tmp_path):
    pq.write_table(table(), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").num_rows == 200
    with pytest.raises(SettingsError, match="no such file"):
        read_table(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_text("row,user")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read_table(tmp_path / "bad.parquet")
