"""Pieces of a batch: each window once, in order, none too large, none smaller than it must be."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from peterrec.data.batches import cut


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(0, 30), max_size=40), positions=st.integers(1, 100))
def test_runs_are_as_long_as_the_positions_allow(lengths, positions):
    runs = cut(np.array(lengths, dtype=np.int64), positions=positions)
    assert [place for run in runs for place in range(run.start, run.stop)] == list(range(len(lengths)))

    def size(first, last):
        return (last - first) * max(1, *lengths[first:last])

    for number, run in enumerate(runs):
        assert run.stop > run.start
        assert run.stop - run.start == 1 or size(run.start, run.stop) <= positions
        if number + 1 < len(runs):
            assert size(run.start, run.stop + 1) > positions


def test_without_a_limit_there_is_one_run():
    assert cut(np.array([3, 9, 1]), positions=None) == [slice(0, 3)]
    assert cut(np.zeros(0, dtype=np.int64), positions=None) == []
    assert cut(np.zeros(0, dtype=np.int64), positions=4) == []


def test_the_longest_need_not_stand_first():
    assert cut(np.array([1, 1, 8, 1, 1]), positions=8) == [slice(0, 2), slice(2, 3), slice(3, 5)]
