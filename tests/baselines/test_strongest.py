"""The strongest entries of a row against a sorted list."""

import numpy as np
from scipy.sparse import csr_array

from peterrec.baselines.strongest import strongest


def test_equal_entries_go_to_the_lower_columns():
    random = np.random.default_rng(0)
    for count in (1, 3, 7, 50):
        dense = random.integers(0, 4, (40, 12)).astype(np.float64)
        dense[5] = 0
        found = strongest(csr_array(dense), count=count).toarray()
        for row, kept in zip(dense, found, strict=True):
            best = sorted(np.flatnonzero(row), key=lambda column: (-row[column], column))[:count]
            expected = np.zeros(12)
            expected[best] = row[best]
            assert kept.tolist() == expected.tolist()


def test_unsorted_columns_and_no_rows():
    matrix = csr_array((np.array([1.0, 1.0, 2.0]), np.array([2, 0, 1]), np.array([0, 3])), shape=(1, 3))
    assert strongest(matrix, count=2).toarray().tolist() == [[1.0, 2.0, 0.0]]
    assert strongest(csr_array((0, 3)), count=2).shape == (0, 3)
