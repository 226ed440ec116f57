"""Bootstrap intervals: determinism, clusters, pairing, and coverage on simulated data."""

import numpy as np
import pytest

from peterrec.errors import DataError
from peterrec.metrics.classification import METRICS, classification_metrics
from peterrec.metrics.intervals import (
    Bootstrap,
    ClassificationRows,
    RankingRows,
    all_draws,
    interval_of_mean,
    metric_draws,
    metric_intervals,
    paired_gain,
)


def classified(users, *, seed: int, skill: float = 1.0, classes: int = 3) -> ClassificationRows:
    """Labels belong to the user; the probabilities differ by seed."""
    labels = np.array([sum(map(ord, str(user))) % classes for user in users])
    logits = np.random.default_rng(seed).normal(size=(len(users), classes))
    logits[np.arange(len(users)), labels] += skill
    odds = np.exp(logits)
    return ClassificationRows(users, labels, odds / odds.sum(axis=1, keepdims=True))


def names(count: int) -> np.ndarray:
    return np.array([f"user-{number}" for number in range(count)])


def test_counts_are_multinomial_deterministic_and_blind_to_blocks_and_order():
    users = np.repeat(names(40), 2)
    bootstrap = Bootstrap(users, replicates=300, seed=5)
    counts = np.concatenate(list(bootstrap.blocks()))
    assert counts.shape == (300, 40)
    assert np.array_equal(counts.sum(axis=1), np.full(300, 40))
    assert counts.var() == pytest.approx(1 - 1 / 40, rel=0.1)
    shuffled = Bootstrap(np.random.default_rng(0).permutation(users), replicates=300, seed=5)
    blocks = list(shuffled.blocks(cells=7 * 40))
    assert len(blocks) > 10
    assert np.array_equal(np.concatenate(blocks), counts)
    assert not np.array_equal(next(Bootstrap(users, replicates=300, seed=6).blocks()), counts)
    assert np.array_equal(bootstrap.users[bootstrap.places(users)], users)


def test_text_from_arrow_is_the_same_users():
    users = names(20)
    values = np.random.default_rng(1).random(20)
    assert interval_of_mean(values, users=users) == interval_of_mean(values, users=users.astype(object))


def test_interval_of_a_mean_is_that_of_the_normal_law():
    values = np.random.default_rng(2).normal(3, 2, 4000)
    interval = interval_of_mean(values, replicates=2000)
    error = values.std() / np.sqrt(4000)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_rows_of_a_user_come_and_go_together():
    values = np.random.default_rng(3).random(200)
    once = interval_of_mean(values, users=np.arange(200))
    often = interval_of_mean(np.repeat(values, 9), users=np.repeat(np.arange(200), 9))
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high))
    independent = interval_of_mean(np.repeat(values, 9))
    assert independent.high - independent.low < 0.5 * (once.high - once.low)


def test_replicates_are_the_means_over_seeds_of_the_metrics_of_repeated_rows():
    users = names(30)
    seeds = [users, np.random.default_rng(4).permutation(users)[:25]]  # a seed may have its own test users
    parts = [classified(of_seed, seed=number) for number, of_seed in enumerate(seeds)]
    found = metric_intervals(parts, replicates=60, seed=8)
    draws = {name: [] for name in METRICS}
    bootstrap = Bootstrap(users, replicates=60, seed=8)
    shares = bootstrap.seed_shares(2)
    assert set(np.unique(shares)) == {0, 0.5, 1}
    assert shares.sum(axis=1) == pytest.approx(1)
    for counts in np.concatenate(list(bootstrap.blocks())):
        measured = []
        for part in parts:
            repeated = np.repeat(np.arange(len(part.users)), counts[bootstrap.places(part.users)].astype(int))
            rows = part._classified
            measured.append(
                classification_metrics(
                    rows.labels, rows.probabilities, weights=np.bincount(repeated, minlength=len(rows))
                )
            )
        for name in METRICS:
            draws[name].append(np.average([one[name] for one in measured], weights=shares[len(draws[name])]))
    for name in METRICS:
        drawn = np.array(draws[name])
        if name == "calibration_error":  # biased upwards by resampling, so centred on the figure
            drawn = np.maximum(drawn - drawn.mean() + found[name]["value"], 0)
        low, high = np.percentile(drawn, [2.5, 97.5])
        assert (found[name]["low"], found[name]["high"]) == pytest.approx((low, high)), name
        assert found[name]["value"] == pytest.approx(np.mean(found[name]["per_seed"]))
        assert len(found[name]["per_seed"]) == 2


def test_ranking_values_have_the_same_shape_of_result():
    users, random = names(50), np.random.default_rng(5)
    parts = [RankingRows(users, {"hr@10": random.random(50), "mrr": random.random(50)}) for _ in range(3)]
    found = metric_intervals(parts)
    assert list(found) == ["hr@10", "mrr"]
    for entry in found.values():
        assert list(entry) == ["value", "low", "high", "per_seed"]
        assert entry["low"] < entry["value"] < entry["high"]


def test_a_paired_gain_is_far_surer_than_the_models_are():
    users, random = names(400), np.random.default_rng(6)
    hard = random.random(400)
    weak, strong = (RankingRows(users, {"hr@10": hard + gain}) for gain in (0.0, 0.01))
    gain = paired_gain([strong], [weak], metric="hr@10")
    assert gain is not None
    assert (gain.low, gain.value, gain.high) == pytest.approx((0.01, 0.01, 0.01))
    order = random.permutation(400)
    moved = RankingRows(users[order], {"hr@10": hard[order]})
    moved_gain = paired_gain([strong, strong], [moved], metric="hr@10")  # seeds may differ in number, rows in order
    assert moved_gain is not None
    assert (moved_gain.low, moved_gain.high) == pytest.approx((0.01, 0.01))


def test_a_classifier_gains_nothing_on_itself_and_much_on_a_worse_one():
    users = names(300)
    good, poor = ([classified(users, seed=s, skill=skill) for s in range(2)] for skill in (2.0, 0.5))
    itself = paired_gain(good, good, metric="roc_auc")
    assert itself is not None
    assert (itself.low, itself.value, itself.high) == (0, 0, 0)
    gain = paired_gain(good, poor, metric="roc_auc")
    assert gain is not None
    assert 0 < gain.low < gain.value < gain.high
    values = [metric_intervals(model)["roc_auc"]["value"] for model in (good, poor)]
    assert gain.value == pytest.approx(values[0] - values[1])


def test_other_users_are_no_pairs():
    one, other = (classified(names(count), seed=0) for count in (20, 21))
    with pytest.raises(DataError, match=r"1 users \(such as user-20\)"):
        paired_gain([one], [other], metric="accuracy")


def test_what_is_undefined_is_left_out_and_nothing_is_an_error():
    users = names(3)
    one_class = ClassificationRows(users, [1, 1, 1], np.full((3, 2), [0.4, 0.6]))
    assert "roc_auc" not in metric_intervals([one_class])
    assert paired_gain([one_class], [one_class], metric="roc_auc") is None
    rare = ClassificationRows(users, [0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    assert metric_intervals([rare])["roc_auc"]["low"] == 1  # replicates with one class alone do not count
    with pytest.raises(DataError, match="no test users"):
        interval_of_mean([])


@pytest.mark.parametrize("kind", ["mean", "accuracy", "roc_auc"])
def test_the_interval_covers_the_truth_in_about_95_of_100_samples(kind):
    """300 samples of 150 users with 2 seeds each, whose errors go together (3 standard errors are 3.8 %)."""
    random = np.random.default_rng(11)
    simulations, count, covered = 300, 150, 0
    users = np.arange(count)
    for _ in range(simulations):
        labels = random.integers(0, 2, count)
        shared = random.normal(size=count)
        parts, values = [], []
        for _seed in range(2):
            # Score differences of two classes have mean 1 and variance 2: accuracy Φ(0.5/1), AUC Φ(1/√2).
            score = labels - 0.5 + np.sqrt(0.8) * shared + np.sqrt(0.2) * random.normal(size=count)
            positive = 1 / (1 + np.exp(-score))
            parts.append(ClassificationRows(users, labels, np.stack([1 - positive, positive], axis=1)))
            values.append(score * (2 * labels - 1))
        if kind == "mean":
            interval = interval_of_mean(np.concatenate(values), users=np.tile(users, 2), replicates=300)
            low, high, truth = interval.low, interval.high, 0.5
        else:
            for part in parts:
                part.names = (kind,)
            found = metric_intervals(parts, replicates=300)[kind]
            low, high, truth = found["low"], found["high"], {"accuracy": 0.69146, "roc_auc": 0.76025}[kind]
        covered += low <= truth <= high
    assert 0.91 <= covered / simulations <= 0.985


def test_one_pass_for_all_metrics_finds_what_a_pass_for_each_finds():
    users = names(60)
    rows = [classified(users, seed=seed) for seed in (0, 1)]
    together = all_draws(rows, replicates=50)
    assert together.intervals() == metric_intervals(rows, replicates=50)
    for metric in METRICS:
        alone = metric_draws(rows, metric=metric, replicates=50)
        assert together.of(metric).value == alone.value
        assert np.array_equal(together.of(metric).replicates, alone.replicates, equal_nan=True)
        assert np.array_equal(together.of(metric).users, alone.users)
