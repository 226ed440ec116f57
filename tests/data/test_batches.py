"""Windows and batches: every pair of consecutive events once, constant positions, a pure function of seed and epoch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peterrec.data.batches import groups, pad, plan, tails, windows


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 60), max_size=30),
    max_length=st.integers(1, 12),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
def test_windows_hold_each_pair_of_consecutive_events_exactly_once(lengths, max_length, seed, epoch):
    found = windows(np.array(lengths, dtype=np.int64), max_length=max_length, seed=seed, epoch=epoch)
    pairs = [
        (row, first)
        for row, start, stop in zip(found.row, found.start, found.stop, strict=True)
        for first in range(start, stop - 1)
    ]
    assert sorted(pairs) == [(row, i) for row, n in enumerate(lengths) for i in range(n - 1)]
    assert np.all(found.lengths >= 2)
    assert np.all(found.lengths <= max_length + 1)


def test_cuts_move_between_epochs_and_repeat_with_the_seed():
    lengths = np.full(50, 100)
    first, again, other = (windows(lengths, max_length=30, seed=0, epoch=epoch) for epoch in (0, 0, 1))
    assert np.array_equal(first.start, again.start)
    assert not np.array_equal(first.start, other.start)


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), max_size=200), positions=st.integers(1, 300), shuffle=st.booleans())
def test_a_plan_uses_each_window_once_and_keeps_within_the_positions(lengths, positions, shuffle):
    lengths = np.array(lengths, dtype=np.int64)
    batches = plan(lengths, positions=positions, seed=1, epoch=2, shuffle=shuffle)
    used = np.concatenate(batches) if batches else np.zeros(0, dtype=int)
    assert np.array_equal(np.sort(used), np.arange(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= positions


def test_long_tails_waste_little_and_batches_stay_full():
    lengths = np.clip(np.random.default_rng(0).lognormal(4.5, 1.0, 20_000), 1, 200).astype(np.int64)
    batches = plan(lengths, positions=12_800, seed=0, epoch=0)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert lengths.sum() / padded > 0.95
    assert lengths.sum() / (12_800 * len(batches)) > 0.9


def test_plans_and_groups_change_with_the_epoch_and_repeat_with_the_seed():
    lengths = np.random.default_rng(0).integers(1, 50, 500)
    for make in (
        lambda epoch: plan(lengths, positions=400, seed=3, epoch=epoch),
        lambda epoch: groups(lengths, users=16, seed=3, epoch=epoch),
    ):
        first, again, other = make(0), make(0), make(1)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=False))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 500])
def test_groups_use_each_history_once(count):
    lengths = np.random.default_rng(0).integers(0, 50, count)
    batches = groups(lengths, users=16, seed=0, epoch=0)
    used = np.concatenate(batches) if batches else np.zeros(0, dtype=int)
    assert np.array_equal(np.sort(used), np.arange(count))
    assert sum(len(batch) != 16 for batch in batches) <= 1


def test_padding_is_on_the_right_and_the_appended_row_ends_each_history():
    flat, lengths = np.array([5, 6, 7, 8, 9]), np.array([2, 0, 3])
    assert pad(flat, lengths).tolist() == [[5, 6, 0], [0, 0, 0], [7, 8, 9]]
    assert pad(flat, lengths, append=2).tolist() == [[5, 6, 2, 0], [2, 0, 0, 0], [7, 8, 9, 2]]
    assert pad(flat[:0], lengths[1:2]).tolist() == [[0]]


def test_tails_are_the_last_events():
    found = tails(np.array([5, 0, 2]), max_length=3)
    assert found.start.tolist() == [2, 0, 0]
    assert found.stop.tolist() == [5, 0, 2]
