"""Labels of users and their splits, against what the tables say."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peterrec.data.attribute import Attribute, read_attribute, split_users
from peterrec.data.prepared import open_prepared
from peterrec.errors import DataError, SettingsError


def attribute(labels) -> Attribute:
    labels = np.asarray(labels)
    return Attribute(
        column="gender",
        classes=("f", "m", "x"),
        users=np.array([f"u{i}" for i in range(len(labels))]),
        rows=np.arange(len(labels)),
        labels=labels,
        unlabelled=0,
    )


def split(labels, seed=0, budget=None, fractions=(0.7, 0.03, 0.27), stratified=True):
    return split_users(attribute(labels), fractions=fractions, stratified=stratified, seed=seed, budget=budget)


def test_the_labels_are_those_of_the_table(prepared_folder):
    prepared = open_prepared(prepared_folder)
    found = read_attribute(prepared, column="age")
    assert found.classes == tuple(sorted(found.classes, key=int)), "numbers stand in order of value"
    table = dict(zip(*(prepared.labels()[name].to_pylist() for name in ("user", "age")), strict=True))
    users = list(prepared.sequences("histories").users)
    for user, row, label in zip(found.users, found.rows, found.labels, strict=True):
        assert users[row] == user
        assert str(table[user]) == found.classes[label]


def relabelled(prepared_folder, tmp_path, column):
    """The prepared folder with another users table."""
    import shutil

    folder = tmp_path / "prepared"
    shutil.copytree(prepared_folder, folder)
    users = open_prepared(prepared_folder).labels()["user"]
    pq.write_table(pa.table({"user": users, "gender": pa.array(column(len(users)))}), folder / "users.parquet")
    return open_prepared(folder)


def test_users_without_a_label_are_left_out_and_counted(prepared_folder, tmp_path):
    prepared = relabelled(prepared_folder, tmp_path, lambda n: ["f", "m", None, " "] * (n // 4) + ["f"] * (n % 4))
    found = read_attribute(prepared, column="gender")
    assert found.classes == ("f", "m")
    assert found.unlabelled == 2 * (400 // 4)


@pytest.mark.parametrize(
    ("column", "classes", "message"),
    [
        (lambda n: ["f"] * n, None, "only the class 'f'"),
        (lambda n: [None] * n, None, "no label"),
        (lambda n: ["f", "q"] * (n // 2), ("f", "m"), "'q'"),
        (lambda n: [0.5, 1.5] * (n // 2), None, "double"),
    ],
)
def test_labels_that_cannot_be_used(prepared_folder, tmp_path, column, classes, message):
    prepared = relabelled(prepared_folder, tmp_path, column)
    with pytest.raises(DataError, match=message):
        read_attribute(prepared, column="gender", classes=classes)


def test_an_unknown_column_suggests_the_near_one(prepared_folder):
    with pytest.raises(DataError, match="Did you mean 'gender'"):
        read_attribute(open_prepared(prepared_folder), column="gendr")


def test_parts_are_disjoint_and_complete_and_classes_keep_their_shares():
    labels = np.random.default_rng(0).choice(3, size=2000, p=[0.7, 0.28, 0.02])
    found = split(labels)
    assert np.array_equal(np.sort(np.concatenate([found.train, found.validation, found.test])), np.arange(2000))
    assert (len(found.train), len(found.test)) == pytest.approx((1400, 540), abs=6)
    for label in range(3):
        assert np.mean(labels[found.test] == label) == pytest.approx(np.mean(labels == label), abs=0.004)


def test_the_seed_decides():
    labels = [0, 1] * 100
    assert np.array_equal(split(labels).test, split(labels).test)
    assert not np.array_equal(split(labels).test, split(labels, seed=1).test)


def learned(found) -> set[int]:
    return {*found.train.tolist(), *found.validation.tolist()}


def test_a_budget_counts_training_and_validation_keeps_the_test_users_and_is_nested():
    labels = np.random.default_rng(0).choice(2, size=1000, p=[0.8, 0.2])
    whole, small, smaller = split(labels), split(labels, budget=100), split(labels, budget=30)
    assert np.array_equal(whole.test, small.test)
    assert (len(small.train), len(small.validation)) == (80, 20)
    assert learned(smaller) < learned(small) < learned(whole)
    for part in (small.train, small.validation):
        assert np.mean(labels[part]) == pytest.approx(np.mean(labels), abs=0.06)


@pytest.mark.parametrize("count", [4, 5, 9, 40])
def test_rare_classes_reach_every_part(count):
    labels = np.array([0] * 500 + [1] * count)
    for seed in range(5):
        found = split(labels, seed=seed)
        for part in (found.train, found.validation, found.test):
            assert labels[part].any()


def test_too_large_a_budget_and_too_few_labels_are_refused():
    with pytest.raises(SettingsError, match="--labels 900"):
        split([0, 1] * 100, budget=900)
    with pytest.raises(SettingsError, match="--labels 2"):
        split([0, 1] * 100, budget=2)
    with pytest.raises(DataError, match="leave none for validation"):
        split([0, 1, 0], fractions=(0.9, 0.05, 0.05))
    with pytest.raises(DataError, match="one class"):
        split([0] * 98 + [1, 2], budget=5)
