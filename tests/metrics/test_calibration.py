"""Deciles of predictions and the Wilson interval."""

import numpy as np
import pytest

from peterrec.metrics.calibration import Z, calibration_bins, wilson


def test_deciles_hold_a_tenth_each_and_say_what_came_of_them() -> None:
    random = np.random.default_rng(0)
    told = random.random(5000)
    labels = (random.random(5000) < told**2).astype(float)
    bins = calibration_bins(labels, told)
    order = np.argsort(told)
    assert [one["rows"] for one in bins] == [500] * 10
    for place, one in enumerate(bins):
        rows = order[500 * place : 500 * (place + 1)]
        assert one["predicted"] == pytest.approx(told[rows].mean())
        assert one["observed"] == pytest.approx(labels[rows].mean())
        assert (one["low"], one["high"]) == pytest.approx(wilson(labels[rows].mean(), 500))
    assert all(one["high"] < one["predicted"] for one in bins[3:8])  # p² is below p: it is seen


def test_equal_predictions_share_a_bin() -> None:
    told = np.repeat([0.1, 0.2, 0.7], [80, 15, 5])
    bins = calibration_bins(np.zeros(100), told)
    assert [one["rows"] for one in bins] == [80, 15, 5]
    assert [one["predicted"] for one in bins] == pytest.approx([0.1, 0.2, 0.7])
    [one] = calibration_bins([0, 1], [0.5, 0.5])
    assert (one["observed"], one["rows"]) == (0.5, 2)


def test_weights_are_repeats_but_for_the_interval() -> None:
    random = np.random.default_rng(1)
    told, labels, weights = random.random(300), random.integers(2, size=300), random.integers(1, 4, size=300)
    rows = np.repeat(np.arange(300), weights)
    for one, other in zip(
        calibration_bins(labels, told, weights=weights), calibration_bins(labels[rows], told[rows]), strict=True
    ):
        assert one["predicted"] == pytest.approx(other["predicted"])
        assert one["observed"] == pytest.approx(other["observed"])
        assert one["high"] - one["low"] > other["high"] - other["low"]  # a weight is no more evidence


@pytest.mark.parametrize(("share", "count"), [(0.0, 10), (1.0, 10), (0.03, 400), (0.5, 7)])
def test_the_bounds_are_where_the_score_test_rejects(share: float, count: int) -> None:
    low, high = wilson(share, count)
    assert 0 <= low <= share <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            assert abs(share - bound) == pytest.approx(Z * np.sqrt(bound * (1 - bound) / count))
    assert high > low


def test_nothing_counted_has_no_bins() -> None:
    assert calibration_bins([], []) == []
    assert calibration_bins([1.0], [0.5], weights=[0.0]) == []
