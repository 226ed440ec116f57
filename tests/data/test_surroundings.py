"""What stands around new items, against counting one by one."""

import numpy as np
import pytest

from peterrec.data import surroundings as module
from peterrec.data.surroundings import surroundings


class Histories:
    def __init__(self, rows):
        self.rows = rows
        self.lengths = np.array([len(row) for row in rows], dtype=np.int64)

    def gather(self, rows, start, stop):
        found = [self.rows[r][a:b] for r, a, b in zip(rows, start, stop, strict=True)]
        return np.array([item for row in found for item in row], dtype=np.int32), stop - start


@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
@pytest.mark.parametrize("reach", [1, 3])
def test_counts_are_those_of_a_loop(at_once, reach, monkeypatch):
    monkeypatch.setattr(module, "EVENTS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, 12, size=size).tolist() for size in (0, 1, 5, 9, 2, 0, 14)]
    expected = np.zeros((3, 9))
    for row in rows:
        for i, new in enumerate(row):
            for j, other in enumerate(row):
                if new >= 9 and 3 <= other < 9 and 0 < abs(i - j) <= reach:
                    expected[new - 9, other] += 1
    assert expected.sum() > 10
    found = surroundings(Histories(rows), known=9, rows=12, reach=reach)  # type: ignore[arg-type]
    assert found.shape == (3, 9)
    assert np.array_equal(found.toarray(), expected)


def test_without_new_items_there_are_none():
    assert surroundings(Histories([[3, 4], []]), known=6, rows=6).shape == (0, 6)  # type: ignore[arg-type]
    assert surroundings(Histories([[3, 4]]), known=6, rows=8).sum() == 0  # type: ignore[arg-type]
