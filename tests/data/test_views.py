"""Two views of a history: which events they hold, in which order, and that chance alone decides."""

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.views import Views, draw_views, eligible

LENGTHS = np.array([2, 3, 9, 40, 25, 2, 7])


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Histories in which no item comes twice, so that an item says where it stood."""
    folder = tmp_path_factory.mktemp("part") / "train"
    with SequenceWriter(folder) as writer:
        flat = np.arange(3, 3 + LENGTHS.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(len(LENGTHS))]), flat, LENGTHS)
    return Sequences(folder)


def draw(histories, kind, *, seed=0, most=512, share=0.5, rows=None):
    rows = np.arange(len(LENGTHS)) if rows is None else np.array(rows)
    rng = np.random.default_rng(seed)
    return draw_views(histories, rows, kind=kind, most=most, crop_share=share, rng=rng)


def lists(views: Views) -> list[tuple[list[int], list[int]]]:
    """The views as pairs of lists, taken apart by hand."""
    ends = np.cumsum(views.counts)
    each = [views.flat[stop - count : stop].tolist() for stop, count in zip(ends, views.counts, strict=True)]
    return list(zip(each[: views.users], each[views.users :], strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_halves_are_disjoint_in_order_and_together_the_history(histories, seed):
    for row, (first, second) in enumerate(lists(draw(histories, "halves", seed=seed))):
        assert first == sorted(first)
        assert second == sorted(second)
        assert sorted(first + second) == histories.items_of(row).tolist()
        assert len(second) - len(first) in (0, 1)


def test_long_histories_give_a_random_subset(histories):
    seen = set()
    for seed in range(60):
        first, second = lists(draw(histories, "halves", seed=seed, most=7))[3]
        assert (len(first), len(second)) == (3, 4)
        assert not set(first) & set(second)
        seen |= {*first, *second}
    assert seen == set(histories.items_of(3).tolist())  # no end of the history is preferred


def test_every_event_is_as_often_in_the_first_half(histories):
    counts = np.zeros(40)
    for seed in range(400):
        first = lists(draw(histories, "halves", seed=seed))[3][0]
        counts[np.array(first) - histories.items_of(3)[0]] += 1
    assert counts.min() > 150  # 200 ± 10
    assert counts.max() < 250


def test_crops_are_stretches_of_the_share_anywhere(histories):
    starts = set()
    for seed in range(60):
        for row, pair in enumerate(lists(draw(histories, "crops", seed=seed, share=0.3))):
            items = histories.items_of(row).tolist()
            for crop in pair:
                assert len(crop) == max(round(0.3 * len(items)), 1)
                begin = items.index(crop[0])
                assert crop == items[begin : begin + len(crop)]
                if row == 2:
                    starts.add(begin)
    assert starts == set(range(9 - 3 + 1))
    assert max(len(crop) for pair in lists(draw(histories, "crops", share=1.0, most=5)) for crop in pair) == 5


def test_dropout_views_are_all_events_twice(histories):
    for row, (first, second) in enumerate(lists(draw(histories, "dropout"))):
        assert first == second == histories.items_of(row).tolist()
    first, second = lists(draw(histories, "dropout", most=6))[3]
    assert first == second == sorted(first)
    assert len(first) == 6


@pytest.mark.parametrize("kind", ["halves", "crops"])
def test_the_seed_decides_and_nothing_else(histories, kind):
    one, same, other = (draw(histories, kind, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.flat, same.flat)
    assert np.array_equal(one.counts, same.counts)
    assert lists(one) != lists(other)


def test_swapped_views_stand_beside_each_other(histories):
    views = draw(histories, "halves")
    assert lists(views.swapped()) == [(second, first) for first, second in lists(views)]


def test_views_are_read_like_a_part_of_a_log(histories):
    views = draw(histories, "halves", rows=[3, 0, 2])
    rows = np.array([4, 0, 5])
    flat, counts = views.gather(rows, np.array([0, 2, 1]), views.lengths[rows])
    (first, _), (_, second), (_, third) = lists(views)
    assert flat.tolist() == [*second, *first[2:], *third[1:]]
    assert counts.tolist() == [len(second), len(first) - 2, len(third) - 1]


def test_one_event_has_no_two_views(histories):
    assert eligible(np.array([0, 1, 2, 5, 1])).tolist() == [2, 3]
