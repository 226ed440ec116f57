"""Few shapes: the best ladder against every other one, each window once, and how little is padded."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peterrec.data.batches import plan, windows
from peterrec.data.shapes import RUNGS, Shape, divide, ladder, plan_shapes


def lognormal(users, *, mean=162, median=95, seed=0):
    """Lengths of histories as MovieLens-1M has them."""
    spread = np.sqrt(2 * np.log(mean / median))
    return np.clip(np.random.default_rng(seed).lognormal(np.log(median), spread, users), 2, 5000).astype(np.int64)


def rounded(lengths, rungs):
    return np.asarray(rungs)[np.searchsorted(rungs, lengths)]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40), rungs=st.integers(1, 5), more=st.integers(0, 2))
def test_no_other_ladder_pads_less(lengths, rungs, more):
    lengths = np.array(lengths)
    longest = int(lengths.max()) + more
    found = ladder(lengths, longest=longest, rungs=rungs)
    assert found[-1] == longest
    assert len(found) <= rungs
    assert np.all(np.diff(found) > 0)
    others = ([*below, longest] for count in range(rungs) for below in itertools.combinations(range(1, longest), count))
    assert rounded(lengths, found).sum() == min(int(rounded(lengths, other).sum()) for other in others)


def test_no_lengths_have_a_ladder_too():
    assert ladder(np.zeros(0, dtype=np.int64), longest=7).tolist() == [7]
    assert plan_shapes(np.zeros(0, dtype=np.int64), rungs=np.array([7]), positions=10, seed=0, epoch=0) == []


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=200), positions=st.integers(1, 300), rungs=st.integers(1, 6))
def test_a_plan_uses_each_window_once_in_a_shape_that_holds_it(lengths, positions, rungs):
    lengths = np.array(lengths, dtype=np.int64)
    steps = ladder(lengths, longest=40, rungs=rungs)
    batches = plan_shapes(lengths, rungs=steps, positions=positions, seed=1, epoch=2)
    used = np.concatenate([chosen for _, chosen in batches]) if batches else np.zeros(0, dtype=int)
    assert np.array_equal(np.sort(used), np.arange(len(lengths)))
    assert len({shape for shape, _ in batches}) <= rungs
    assert sum(len(chosen) < shape.users for shape, chosen in batches) <= 1
    for shape, chosen in batches:
        assert 0 < len(chosen) <= shape.users
        assert shape.users == 1 or shape.positions <= positions
        assert shape.length in steps
        assert np.all(lengths[chosen] <= shape.length)
        assert np.all(np.diff(lengths[chosen]) <= 0)


def test_a_window_that_no_rung_holds_is_not_dropped():
    with pytest.raises(AssertionError, match="longer than the last rung"):
        plan_shapes(np.array([3, 9]), rungs=np.array([4, 8]), positions=40, seed=0, epoch=0)


def test_plans_change_with_the_epoch_and_repeat_with_the_seed():
    lengths = np.random.default_rng(0).integers(1, 50, 500)
    make = lambda epoch: plan_shapes(lengths, rungs=np.array([20, 50]), positions=400, seed=3, epoch=epoch)  # noqa: E731
    first, again, other = make(0), make(0), make(1)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=False))


@pytest.mark.parametrize(("max_length", "most"), [(50, 0.06), (200, 0.10), (500, 0.15)])
def test_long_tails_pad_little_more_than_with_free_shapes(max_length, most):
    lengths = lognormal(6040)
    found = [windows(lengths, max_length=max_length, seed=0, epoch=epoch).lengths - 1 for epoch in (0, 1)]
    rungs = ladder(found[0], longest=max_length)
    batches = plan_shapes(found[1], rungs=rungs, positions=6400, seed=0, epoch=1)
    free = plan(found[1], positions=6400, seed=0, epoch=1)
    pairs = int(found[1].sum())
    padded = {
        "few shapes": 1 - pairs / sum(shape.positions for shape, _ in batches),
        "free shapes": 1 - pairs / sum(len(batch) * int(found[1][batch].max()) for batch in free),
        "to the longest": 1 - pairs / (len(found[1]) * max_length),
    }
    print(
        f"\nL = {max_length}, rungs {rungs.tolist()}: padding " + ", ".join(f"{k} {v:.1%}" for k, v in padded.items())
    )
    assert len({shape for shape, _ in batches}) <= RUNGS
    assert padded["few shapes"] < most


@pytest.mark.parametrize("users", [1, 7, 64])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("positions", [None, 1, 25, 10_000])
def test_a_shape_divides_into_equal_pieces_that_hold_all_users(users, parts, positions):
    shape = Shape(users, 10)
    piece = divide(shape, parts=parts, positions=positions)
    assert piece.length == 10
    mine = -(-users // parts)  # the most that a process has
    assert 1 <= piece.users <= mine
    if positions is None:
        assert piece.users == mine
    else:
        assert piece.users == 1 or piece.positions <= positions
        fewest = -(-mine // max(positions // 10, 1))
        assert -(-mine // piece.users) == fewest  # no piece more than the limit asks for
