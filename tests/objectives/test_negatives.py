"""Negatives: what is drawn, how often it is expected, and that sums over them expect sums over the catalogue."""

import numpy as np
import pytest

from peterrec.objectives.negatives import NegativeSampler, by_popularity, log_uniform, number_of_draws


def zipf(items):
    return by_popularity(np.round(1000 / np.arange(1, items + 1)).astype(np.int64), power=1.0)


def test_log_uniform_is_that_of_the_candidate_samplers():
    found = log_uniform(50)
    assert found == pytest.approx([(np.log(k + 2) - np.log(k + 1)) / np.log(51) for k in range(50)])
    assert found.sum() == pytest.approx(1)


def test_popularity_is_a_power_of_the_counts_and_leaves_no_item_out():
    found = by_popularity(np.array([8, 1, 0]), power=0.5)
    assert found == pytest.approx(np.array([np.sqrt(8), 1, 1]) / (np.sqrt(8) + 2))
    assert by_popularity(np.array([8, 1, 0]), power=0.0) == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(("items", "number"), [(40, 8), (300, 100), (5000, 64)])
@pytest.mark.parametrize("make", [log_uniform, zipf])
def test_so_many_are_distinct_on_average(items, number, make):
    sampler = NegativeSampler(make(items), number=number)
    sizes = [len(sampler.draw(np.random.default_rng((7, n))).rows) for n in range(300)]
    assert np.mean(sizes) == pytest.approx(number, rel=0.02, abs=0.5)


def test_draws_have_an_end_where_items_are_all_but_never_drawn():
    probabilities = np.array([1 - 3e-12, 1e-12, 1e-12, 1e-12])
    assert number_of_draws(probabilities, distinct=3) == 3 * 64
    assert number_of_draws(np.array([1.0]), distinct=1) <= 2, "probability one is no division by zero"


@pytest.mark.parametrize("make", [log_uniform, zipf])
def test_an_item_is_there_as_often_as_expected(make):
    sampler, times = NegativeSampler(make(30), number=12), 4000
    seen = np.zeros(33)
    expected = np.full(33, np.nan)
    for n in range(times):
        found = sampler.draw(np.random.default_rng((1, n)))
        seen[found.rows.numpy()] += 1
        expected[found.rows.numpy()] = np.exp(found.log_counts.numpy())
    assert not seen[:3].any(), "special rows are no negatives"
    p = expected[3:]
    assert np.ptp(p) > 0.3, "common and rare ones"
    assert np.abs(seen[3:] / times - p).max() < 5 * np.sqrt((p * (1 - p) / times).max())


def test_a_sum_over_negatives_expects_the_sum_over_all():
    sampler = NegativeSampler(zipf(50), number=10)
    values = np.exp(np.random.default_rng(0).normal(size=53))
    sums = []
    for n in range(6000):
        found = sampler.draw(np.random.default_rng((2, n)))
        sums.append((values[found.rows.numpy()] * np.exp(-found.log_counts.double().numpy())).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - values[3:].sum()) < 4 * error
    assert error < 0.02 * values[3:].sum(), "the bound can fail"


def test_they_are_sorted_distinct_and_a_function_of_the_generator():
    sampler = NegativeSampler(zipf(200), number=60)
    first, again, other = (sampler.draw(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert (np.diff(first.rows.numpy()) > 0).all()
    assert first.rows.equal(again.rows)
    assert first.log_counts.equal(again.log_counts)
    assert not first.rows.equal(other.rows)


def test_those_drawn_elsewhere_are_merged_and_expected_by_their_number():
    sampler = NegativeSampler(zipf(20), number=5)
    found = sampler.merge(np.array([9, 4, 9, 22]))
    assert found.draws == 4
    assert found.log_counts_of(np.array([22, 4])).equal(found.log_counts[[2, 0]])
    assert found.rows.tolist() == [4, 9, 22]
    assert np.exp(found.log_counts.numpy()) == pytest.approx(1 - (1 - zipf(20)[[1, 6, 19]]) ** 4, rel=1e-5)


def test_padded_ones_come_in_few_lengths_and_are_the_same():
    sampler = NegativeSampler(log_uniform(2000), number=64)
    lengths = set()
    for n in range(200):
        plain, full = (sampler.draw(np.random.default_rng(n), padded=padded) for padded in (False, True))
        missing = len(full.rows) - len(plain.rows)
        assert missing >= 0
        assert full.rows[missing:].equal(plain.rows)
        assert full.log_counts[missing:].equal(plain.log_counts)
        assert not full.rows[:missing].any()
        assert full.log_counts[:missing].isposinf().all()
        lengths.add(len(full.rows))
    assert len(lengths) <= 3
    assert min(lengths) == 72
