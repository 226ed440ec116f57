"""Models of ratings beside scikit-surprise's, on the same rows."""

import numpy as np
import pytest

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.latent_factors import LatentFactors
from peterrec.baselines.ratings.nearest import ItemNeighbours, UserNeighbours
from peterrec.baselines.ratings.ratings import Ratings
from peterrec.baselines.ratings.svd_plus_plus import SVDPlusPlus

surprise = pytest.importorskip("surprise", reason="scikit-surprise is not installed")
USERS, ITEMS, ROWS = 120, 50, 3600


@pytest.fixture(scope="module")
def parts() -> tuple[Ratings, Ratings]:
    """Training and test ratings from 1 to 5 of biases and three factors."""
    rng = np.random.default_rng(3)
    pairs = rng.permutation(USERS * ITEMS)[:ROWS]
    u, i = pairs // ITEMS, pairs % ITEMS
    p, q = rng.normal(size=(USERS, 3)), rng.normal(size=(ITEMS, 3))
    truth = 3.3 + 0.4 * rng.normal(size=USERS)[u] + 0.5 * rng.normal(size=ITEMS)[i] + 0.4 * (p[u] * q[i]).sum(1)
    whole = Ratings(u, i, np.clip(np.round(truth + 0.5 * rng.normal(size=ROWS)), 1, 5), USERS, ITEMS)
    return whole.part(np.arange(2900)), whole.part(np.arange(2900, ROWS))


def theirs(algorithm, train: Ratings, test: Ratings) -> np.ndarray:
    """What a model of scikit-surprise predicts for the test rows."""
    raw = [
        (u, i, r, None)
        for u, i, r in zip(train.users.tolist(), train.items.tolist(), train.values.tolist(), strict=True)
    ]
    data = surprise.Dataset(surprise.Reader(rating_scale=(1, 5)))
    algorithm.fit(data.construct_trainset(raw))
    return np.array(
        [algorithm.predict(u, i).est for u, i in zip(test.users.tolist(), test.items.tolist(), strict=True)]
    )


def rmse(predicted: np.ndarray, test: Ratings) -> float:
    return float(np.sqrt(np.mean((predicted - test.values) ** 2)))


BSL = {"method": "als", "n_epochs": 200, "reg_u": 15, "reg_i": 10}  # alternated to the minimum


def test_the_biases_are_theirs_after_many_rounds(parts):
    train, test = parts
    expected = theirs(surprise.BaselineOnly(bsl_options=BSL, verbose=False), train, test)
    np.testing.assert_allclose(BiasBaseline.fit(train).predict(test.users, test.items), expected, atol=1e-5)


@pytest.mark.parametrize("by_user", [False, True])
def test_the_neighbours_are_theirs(parts, by_user):
    train, test = parts
    similarity = {"name": "pearson_baseline", "user_based": by_user, "shrinkage": 100, "min_support": 1}
    expected = theirs(surprise.KNNBaseline(k=15, sim_options=similarity, bsl_options=BSL, verbose=False), train, test)
    model = (UserNeighbours if by_user else ItemNeighbours).fit(train, neighbours=15)
    np.testing.assert_allclose(model.predict(test.users, test.items), expected, atol=1e-3)


@pytest.mark.parametrize(("kind", "name"), [(LatentFactors, "SVD"), (SVDPlusPlus, "SVDpp")])
def test_the_factors_are_no_worse_than_theirs(parts, kind, name):
    """Within 0.01 of their RMSE: the same sum, learned with another optimiser and stopped by validation rows."""
    train, test = parts
    expected = rmse(theirs(getattr(surprise, name)(n_factors=20, random_state=0), train, test), test)
    found = rmse(kind.fit(train).predict(test.users, test.items), test)
    assert found < rmse(BiasBaseline.fit(train).predict(test.users, test.items), test)
    assert found < expected + 0.01
