"""Splits of impressions, against their definitions written out row by row."""

import math

import numpy as np
import pytest

from peterrec.data.impressions.impressions import Impressions
from peterrec.data.impressions.row_split import split_rows
from peterrec.data.impressions.schema import SplitRule
from peterrec.errors import DataError

PARTS = ("train", "validation", "test")


@pytest.fixture
def table():
    rng = np.random.default_rng(3)
    user = rng.integers(0, 25, 400)
    return user, rng.integers(0, 60, 400)


def parts_of(rule, user, time, *, seed=0):
    split = split_rows(rule, rows=len(user), seed=seed, user=user, time=time)
    parts = [getattr(split, name) for name in PARTS]
    for part in parts:
        assert np.all(np.diff(part) > 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(user)))
    return parts


def test_each_user_keeps_the_last_rows_for_the_test(table):
    user, time = table
    user[:3] = [100, 101, 101]  # users of one and two rows train
    parts = parts_of(SplitRule(name="each_user"), user, time)
    for number in np.unique(user):
        own = sorted(np.flatnonzero(user == number), key=lambda row: (time[row], row))
        train, validation = math.ceil(round(len(own) * 0.7, 6)), math.ceil(round(len(own) * 0.8, 6))
        place = [next(k for k, other in enumerate(own) if time[other] == time[row]) for row in own]
        expected = [
            [row for row, k in zip(own, place, strict=True) if low <= k < high]
            for low, high in ((0, train), (train, validation), (validation, len(own)))
        ]
        for part, rows in zip(parts, expected, strict=True):
            assert sorted(part[user[part] == number]) == sorted(rows)
            others = np.setdiff1d(own, rows)
            assert not np.isin(time[rows], time[others]).any()  # a list that was shown at once is in one part
    ten = parts_of(SplitRule(name="each_user"), np.zeros(10, np.int64), np.arange(10)[::-1])
    assert [part.tolist() for part in ten] == [[3, 4, 5, 6, 7, 8, 9], [2], [0, 1]]


def test_temporal_cuts_at_one_time_for_all(table):
    user, time = table
    train, validation, test = parts_of(SplitRule(name="temporal", fractions=(0.6, 0.2, 0.2)), user, time)
    assert time[train].max() < time[validation].min()
    assert time[validation].max() < time[test].min()
    assert abs(len(train) - 240) < 20


def test_random_rows_and_users_follow_the_seed(table):
    user, time = table
    rows = SplitRule(name="rows")
    assert [len(part) for part in parts_of(rows, user, time)] == [280, 40, 80]
    by_user = SplitRule(name="by_user", fractions=(0.6, 0.2, 0.2))
    parts = parts_of(by_user, user, time)
    owners = [set(user[part]) for part in parts]
    assert [len(found) for found in owners] == [15, 5, 5]
    assert not owners[0] & owners[2]
    for rule in (rows, by_user):
        again, other = parts_of(rule, user, time, seed=0), parts_of(rule, user, time, seed=1)
        assert np.array_equal(parts_of(rule, user, time)[2], again[2])
        assert not np.array_equal(again[2], other[2])


def test_an_empty_part_is_refused():
    with pytest.raises(DataError, match=r"leaves no row for validation \(3 rows in all\)"):
        split_rows(SplitRule(name="each_user"), rows=3, seed=0, user=np.arange(3), time=np.arange(3))
    with pytest.raises(DataError, match="leaves no row for train"):
        split_rows(SplitRule(name="temporal"), rows=9, seed=0, user=None, time=np.ones(9, np.int64))


def test_impressions_split_by_their_schema():
    table = Impressions.of_arrays(labels={"click": np.arange(10) % 2}, user=["u"] * 10, time=range(10))
    assert [getattr(table.split(0), name).tolist() for name in PARTS] == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]
