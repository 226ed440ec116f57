"""Neighbours and ridge from source to target items, against plain loops and textbook formulas."""

from collections import Counter

import numpy as np
import pytest

from peterrec.baselines.cross_item_knn import CrossItemKNN
from peterrec.baselines.ridge import Ridge
from peterrec.baselines.tfidf import TfIdf
from peterrec.baselines.user_knn import UserKNN
from peterrec.errors import SettingsError

SOURCES, TARGETS = 9, 7
SIZES = {"num_sources": SOURCES, "num_targets": TARGETS}


def histories(seed: int, *, users: int, items: int):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 8, users)
    return random.integers(2, 3 + items, lengths.sum()).astype(np.int32), lengths


def lists(found) -> list[list[int]]:
    parts = np.split(found[0], np.cumsum(found[1])[:-1])
    return [[row for row in part.tolist() if row >= 3] for part in parts]


@pytest.fixture(params=[6, 60])
def train(request):
    return histories(0, users=request.param, items=SOURCES), histories(1, users=request.param, items=TARGETS)


def check_order_of_the_rest(row, expected, popular):
    rest = [item for item in range(3 + TARGETS) if expected[item] == 0]
    assert max(row[rest], default=0) < min(row[expected > 0], default=np.inf)
    assert np.all(np.diff(row[sorted(rest, key=lambda item: popular[item])]) >= 0)
    assert [popular[a] for a in sorted(rest, key=lambda item: row[item])] == sorted(popular[item] for item in rest)


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0.0), (3, 10.0), (200, 2.0)])
def test_item_neighbours_sum_shrunk_cosines_of_sets_of_users(train, neighbours, shrinkage, monkeypatch):
    sources, targets = lists(train[0]), lists(train[1])
    popular = Counter(item for items in targets for item in items)
    similar = np.zeros((3 + TARGETS, 3 + SOURCES))
    for target in range(3, 3 + TARGETS):
        for source in range(3, 3 + SOURCES):
            had = {user for user, items in enumerate(targets) if target in items}
            read = {user for user, items in enumerate(sources) if source in items}
            if both := len(had & read):
                similar[target, source] = both / np.sqrt(len(had) * len(read)) * both / (both + shrinkage)
    for row in similar:
        row[sorted(range(3 + SOURCES), key=lambda source: (-np.float32(row[source]), source))[neighbours:]] = 0
    test = histories(2, users=20, items=SOURCES)
    whole = CrossItemKNN.fit(*train, neighbours=neighbours, shrinkage=shrinkage, **SIZES)
    for items, row in zip(lists(test), whole.scores(test), strict=True):
        expected = similar[:, items].sum(axis=1)
        assert row[expected > 0] == pytest.approx(expected[expected > 0], rel=1e-5)
        check_order_of_the_rest(row, expected, popular)
    monkeypatch.setattr("peterrec.baselines.cross_item_knn.CELLS", 30)
    again = CrossItemKNN.fit(*train, neighbours=neighbours, shrinkage=shrinkage, **SIZES)
    assert np.array_equal(again.scores(test), whole.scores(test))


@pytest.mark.parametrize("neighbours", [2, 100])
def test_user_neighbours_sum_the_cosines_of_who_had_the_item(train, neighbours, monkeypatch):
    test = histories(3, users=20, items=SOURCES)
    weights = TfIdf(SOURCES).fit(train[0])
    cosine = weights.transform(test).toarray() @ weights.transform(train[0]).toarray().T
    targets = lists(train[1])
    popular = Counter(item for items in targets for item in items)
    model = UserKNN.fit(*train, neighbours=neighbours, **SIZES)
    found = model.scores(test)
    for similar, row in zip(cosine, found, strict=True):
        near = sorted(range(len(targets)), key=lambda user: (-np.float32(similar[user]), user))[:neighbours]
        expected = np.array([sum(similar[user] for user in near if item in targets[user]) for item in range(10)])
        assert row[expected > 0] == pytest.approx(expected[expected > 0], rel=1e-4)
        check_order_of_the_rest(row, expected, popular)
    monkeypatch.setattr("peterrec.baselines.user_knn.CELLS", 3 * len(targets))
    assert np.array_equal(model.scores(test), found)


@pytest.mark.parametrize("weighting", ["tfidf", "binary"])
def test_ridge_solves_the_augmented_least_squares_with_a_free_intercept(train, weighting, monkeypatch):
    monkeypatch.setattr("peterrec.baselines.ridge.ROWS_AT_ONCE", 7)
    weights = TfIdf(SOURCES, weighting=weighting).fit(train[0])
    bags = weights.transform(train[0]).toarray()
    taken = np.array([[float(item in items) for item in range(3 + TARGETS)] for items in lists(train[1])])
    test = histories(4, users=20, items=SOURCES)
    read = weights.transform(test).toarray()
    found = list(Ridge.path(*train, penalties=(0.3, 5.0), weighting=weighting, **SIZES))
    assert [one.dual for one in found] == [len(bags) < SOURCES] * 2
    for ridge, penalty in zip(found, (0.3, 5.0), strict=True):
        # the penalty as rows of data, the intercept as a column that these rows do not have
        width = bags.shape[1]
        left = np.block([[bags, np.ones((len(bags), 1))], [np.sqrt(penalty) * np.eye(width), np.zeros((width, 1))]])
        solved = np.linalg.lstsq(left, np.vstack([taken, np.zeros((width, taken.shape[1]))]), rcond=None)[0]
        assert ridge.penalty == penalty
        assert ridge.scores(test) == pytest.approx(read @ solved[:-1] + solved[-1], abs=1e-5)


def test_a_heavy_penalty_comes_to_the_share_of_users(train):
    (ridge,) = Ridge.path(*train, penalties=(1e9,), **SIZES)
    shares = [np.mean([item in items for items in lists(train[1])]) for item in range(3 + TARGETS)]
    assert ridge.scores(histories(5, users=4, items=SOURCES)) == pytest.approx(np.tile(shares, (4, 1)), abs=1e-5)


def test_a_penalty_is_above_zero(train):
    with pytest.raises(SettingsError, match="above 0, not 0"):
        next(Ridge.path(*train, penalties=(1.0, 0.0), **SIZES))
