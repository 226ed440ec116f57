"""GAUC against a loop over users, in its three weightings."""

import math
from itertools import product

import numpy as np
import pytest

from peterrec.errors import SettingsError
from peterrec.metrics.click_rates import auc
from peterrec.metrics.user_auc import gauc, user_aucs


def impressions(seed: int, *, count: int = 200) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    users = np.array([f"u{number:05d}" for number in random.integers(25, size=count)])
    labels = (random.random(count) < 0.3).astype(float)
    labels[users == "u00003"], labels[users == "u00004"] = 0, 1  # users of one class
    users[:1], labels[:1] = "alone", 1
    return labels, random.integers(6, size=count) / 7, users, random.integers(0, 3, size=count).astype(float)


def looped(labels, predictions, users, weighting, weights):  # type: ignore[no-untyped-def]
    top = bottom = 0.0
    for user in sorted(set(users)):
        rows = [i for i in range(len(users)) if users[i] == user]
        up, down = ([i for i in rows if labels[i] == wanted] for wanted in (1, 0))
        pairs = [(weights[i] * weights[j], predictions[i] - predictions[j]) for i, j in product(up, down)]
        total = sum(weight for weight, _ in pairs)
        if not total:
            continue
        own = sum(weight * (1 if gap > 0 else 0.5 if gap == 0 else 0) for weight, gap in pairs) / total
        share = {"users": 1.0, "impressions": sum(weights[i] for i in rows), "positives": sum(weights[i] for i in up)}
        top += share[weighting] * own
        bottom += share[weighting]
    return top / bottom if bottom else math.nan


@pytest.mark.parametrize("weighting", ["impressions", "users", "positives"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gauc_is_the_mean_over_users(seed: int, weighting) -> None:  # type: ignore[no-untyped-def]
    labels, predictions, users, weights = impressions(seed)
    ones = np.ones(len(labels))
    assert gauc(labels, predictions, users, weighting=weighting) == pytest.approx(
        looped(labels, predictions, users, weighting, ones)
    )
    assert gauc(labels, predictions, users, weighting=weighting, weights=weights) == pytest.approx(
        looped(labels, predictions, users, weighting, weights)
    )


def test_the_weightings_differ_and_impressions_is_the_default() -> None:
    labels, predictions, users, _ = impressions(0)
    found = {name: gauc(labels, predictions, users, weighting=name) for name in ("impressions", "users", "positives")}
    assert len({round(value, 6) for value in found.values()}) == 3
    assert gauc(labels, predictions, users) == found["impressions"]


def test_users_of_one_class_have_no_auc_and_no_weight() -> None:
    labels, predictions, users, _ = impressions(1)
    aucs = user_aucs(labels, predictions, users)
    known = dict(zip(aucs.users, aucs.auc, strict=True))
    assert all(np.isnan(known[user]) for user in ("u00003", "u00004", "alone"))
    kept = ~np.isin(users, ["u00003", "u00004", "alone"])
    assert gauc(labels, predictions, users) == pytest.approx(gauc(labels[kept], predictions[kept], users[kept]))
    assert np.isnan(gauc(labels[~kept], predictions[~kept], users[~kept]))


def test_one_user_has_the_auc_itself_and_a_base_rate_a_user_helps_nobody() -> None:
    labels, predictions, users, weights = impressions(2)
    one = np.zeros(len(labels))
    assert gauc(labels, predictions, one, weights=weights) == pytest.approx(
        float(auc(labels, predictions, weights=weights))
    )
    rates = {user: labels[users == user].mean() for user in set(users)}
    prior = np.array([rates[user] for user in users])
    assert auc(labels, prior) > 0.6
    assert gauc(labels, prior, users) == pytest.approx(0.5)


def test_counted_users_are_repeated_users() -> None:
    labels, predictions, users, _ = impressions(0)
    aucs = user_aucs(labels, predictions, users)
    counts = np.random.default_rng(3).integers(0, 3, size=(4, len(aucs.users)))
    for weighting in ("impressions", "users", "positives"):
        for count, found in zip(counts, aucs.mean(weighting, counts), strict=True):
            parts = [
                np.flatnonzero(users == user)
                for user, times in zip(aucs.users, count, strict=True)
                for _ in range(times)
            ]
            rows = np.concatenate(parts)
            apart = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            assert found == pytest.approx(gauc(labels[rows], predictions[rows], apart, weighting=weighting))


def test_an_unknown_weighting_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"weighting 'impresions'.*impressions"):
        gauc([0, 1], [0.1, 0.2], [1, 1], weighting="impresions")  # type: ignore[arg-type]
