"""Histories as a matrix, against plain loops."""

import numpy as np
import pytest

from peterrec.baselines.item_matrix import count_matrix, last_items
from peterrec.errors import RefusedError


def random_histories(seed: int, *, users: int = 25, num_items: int = 9):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 14, users)
    return random.integers(0, 3 + num_items, lengths.sum()).astype(np.int32), lengths


def split(histories):
    return [part.tolist() for part in np.split(histories[0], np.cumsum(histories[1])[:-1])]


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_last_items_equal_a_loop(seed):
    histories = random_histories(seed)
    matrix = count_matrix(histories, num_items=9).toarray()
    assert matrix.shape == (25, 12)
    last = split(last_items(histories, count=3))
    for user, items in enumerate(split(histories)):
        kept = [row for row in items if row >= 3]  # special rows are no items
        assert matrix[user].tolist() == [kept.count(row) if row >= 3 else 0 for row in range(12)]
        assert last[user] == kept[-3:]


def test_nobody_and_nothing():
    empty = (np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))
    assert count_matrix(empty, num_items=4).shape == (0, 7)
    nothing = (np.empty(0, dtype=np.int32), np.zeros(2, dtype=np.int64))
    assert count_matrix(nothing, num_items=4).toarray().tolist() == [[0] * 7] * 2
    assert last_items(nothing, count=2)[1].tolist() == [0, 0]


@pytest.mark.parametrize("row", [12, -1])
def test_a_row_of_another_vocabulary_is_refused(row):
    with pytest.raises(RefusedError, match=rf"vocabulary row {row}, .* rows 0 to 11"):
        count_matrix((np.array([3, row]), np.array([2])), num_items=9)
