"""Models of ratings against their equations, written out row by row."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from peterrec.baselines.ratings.bias_baseline import BiasBaseline
from peterrec.baselines.ratings.global_mean import GlobalMean
from peterrec.baselines.ratings.integrated import Integrated
from peterrec.baselines.ratings.latent_factors import LatentFactors
from peterrec.baselines.ratings.learned import LearnedSettings
from peterrec.baselines.ratings.models import MODELS
from peterrec.baselines.ratings.nearest import ItemNeighbours, UserNeighbours
from peterrec.baselines.ratings.neighbourhood import Neighbourhood
from peterrec.baselines.ratings.ratings import Ratings
from peterrec.baselines.ratings.svd_plus_plus import SVDPlusPlus
from peterrec.errors import DataError, DivergedError, SettingsError

USERS, ITEMS = 14, 11
QUICK = LearnedSettings(factors=3, neighbours=4, rows=16, epochs=4, groups=3, shrinkage=2.0)
LEARNED = (LatentFactors, SVDPlusPlus, Neighbourhood, Integrated)


def drawn(*, rows=70, seed=0, weights=False, implicit=True) -> Ratings:
    """Ratings in any order, one pair twice; user 3 and item 5 have none, user 3 has implicit events alone."""
    rng = np.random.default_rng(seed)
    pairs = np.array([(u, i) for u in range(USERS) for i in range(ITEMS) if u != 3 and i != 5])
    pairs = pairs[rng.permutation(len(pairs))[: rows - 1]]
    pairs = np.concatenate([pairs, pairs[:1]])[rng.permutation(rows)]
    values = np.clip(np.round(3 + rng.normal(size=USERS)[pairs[:, 0]] + rng.normal(size=rows)), 1, 5)
    events = np.array([(3, 0), (3, 7), (0, 5), (1, 2)])
    return Ratings(
        pairs[:, 0],
        pairs[:, 1],
        values,
        USERS,
        ITEMS,
        weights=rng.uniform(0.5, 2, rows) if weights else None,
        implicit=(events[:, 0], events[:, 1]) if implicit else None,
    )


def every_pair() -> tuple[np.ndarray, np.ndarray]:
    """All users and items, also unknown ones."""
    users, items = np.meshgrid([*range(USERS), -1, USERS], [*range(ITEMS), -1, ITEMS + 3])
    return users.ravel(), items.ravel()


def row(ids: int, number: int) -> int:
    return ids if 0 <= ids < number else number


def left_of(ratings: Ratings) -> tuple[BiasBaseline, dict[tuple[int, int], float]]:
    """r − b of each pair, the mean of several."""
    baseline = BiasBaseline.fit(ratings)
    found: dict[tuple[int, int], list[float]] = {}
    for u, i, r in zip(ratings.users, ratings.items, ratings.values, strict=True):
        b = baseline.mean + baseline.user_bias[u] + baseline.item_bias[i]
        found.setdefault((int(u), int(i)), []).append(r - b)
    return baseline, {pair: float(np.mean(all_of)) for pair, all_of in found.items()}


def correlations(left: dict[tuple[int, int], float], *, items: int, shrinkage: float) -> np.ndarray:
    found = np.zeros((items, items))
    for i in range(items):
        for j in range(items):
            both = [u for u, one in left if one == i and (u, j) in left]
            if i == j or len(both) < 2:
                continue
            a, b = (np.array([left[u, one] for u in both]) for one in (i, j))
            found[i, j] = a @ b / math.sqrt((a @ a) * (b @ b)) * (len(both) - 1) / (len(both) - 1 + shrinkage)
    return found


@pytest.mark.parametrize("weights", [False, True])
def test_biases_are_the_exact_minimum(weights):
    ratings = drawn(weights=weights)
    design = np.zeros((len(ratings), USERS + ITEMS))
    design[np.arange(len(ratings)), ratings.users] = 1
    design[np.arange(len(ratings)), USERS + ratings.items] = 1
    w = np.ones(len(ratings)) if ratings.weights is None else ratings.weights / ratings.weights.mean()
    mean = np.average(ratings.values, weights=w)
    penalty = np.diag([4.0] * USERS + [2.5] * ITEMS)
    solved = np.linalg.solve(design.T @ (design * w[:, None]) + penalty, design.T @ (w * (ratings.values - mean)))
    found = BiasBaseline.fit(ratings, user_penalty=4.0, item_penalty=2.5)
    assert found.mean == pytest.approx(mean)
    np.testing.assert_allclose(found.user_bias, [*solved[:USERS], 0], atol=1e-8)
    np.testing.assert_allclose(found.item_bias, [*solved[USERS:], 0], atol=1e-8)
    users, items = every_pair()
    expected = [
        np.clip(
            mean + [*solved[:USERS], 0][row(u, USERS)] + [*solved[USERS:], 0][row(i, ITEMS)],
            ratings.values.min(),
            ratings.values.max(),
        )
        for u, i in zip(users, items, strict=True)
    ]
    np.testing.assert_allclose(found.predict(users, items), expected, atol=1e-8)
    np.testing.assert_allclose(GlobalMean.fit(ratings).predict(users, items), mean)


@pytest.mark.parametrize("by_user", [False, True])
@pytest.mark.parametrize("neighbours", [2, 40])
def test_neighbours_are_averaged_by_similarity(by_user, neighbours, monkeypatch):
    monkeypatch.setattr("peterrec.baselines.ratings.nearest.CELLS", 30)
    monkeypatch.setattr("peterrec.baselines.ratings.similar_items.CELLS", 30)
    ratings = drawn(weights=True)
    baseline, left = left_of(ratings)
    if by_user:
        left = {(i, u): value for (u, i), value in left.items()}
    similar = correlations(left, items=USERS if by_user else ITEMS, shrinkage=3.0)
    users, items = every_pair()
    expected = []
    for u, i in zip(users, items, strict=True):
        found = baseline.mean + baseline.user_bias[row(u, USERS)] + baseline.item_bias[row(i, ITEMS)]
        who, what = (i, u) if by_user else (u, i)
        if 0 <= u < USERS and 0 <= i < ITEMS:
            rated = sorted(((similar[what, j], left[one, j]) for one, j in left if one == who), reverse=True)
            near = [(s, r) for s, r in rated[:neighbours] if s > 0]
            if near:
                found += sum(s * r for s, r in near) / sum(s for s, _ in near)
        expected.append(np.clip(found, 1, 5))
    model = (UserNeighbours if by_user else ItemNeighbours).fit(ratings, neighbours=neighbours, shrinkage=3.0)
    np.testing.assert_allclose(model.predict(users, items), expected, atol=1e-5)


def test_the_candidates_that_are_kept_are_the_most_similar():
    ratings = drawn()
    _, left = left_of(ratings)
    expected = correlations(left, items=ITEMS, shrinkage=100.0)
    found = ItemNeighbours.fit(ratings, candidates=3).similar
    assert found.items.shape == found.similarity.shape == (ITEMS + 1, 3)
    for i in range(ITEMS):
        best = [j for j in np.argsort(-expected[i], kind="stable") if expected[i, j] > 0][:3]
        assert found.items[i].tolist() == best + [ITEMS] * (3 - len(best))
        np.testing.assert_allclose(found.similarity[i][: len(best)], expected[i, best], rtol=1e-5)
    assert (found.items[ITEMS] == ITEMS).all()


def by_hand(model, ratings: Ratings, u: int, i: int) -> float:
    """The sum of Koren's tiers, unclipped, from the model's parameters."""
    p = {name: value.detach().double().numpy() for name, value in model.tiers.state_dict().items()}
    user, item = row(u, USERS), row(i, ITEMS)
    found = ratings.mean + p["user_bias"][user] + p["item_bias"][item]
    own = {(int(a), int(b)) for a, b in zip(ratings.users, ratings.items, strict=True)}
    if ratings.implicit is not None:
        own |= set(zip(ratings.implicit[0].tolist(), ratings.implicit[1].tolist(), strict=True))
    chosen = sorted(j for a, j in own if a == u)
    if "item_factors" in p:
        vector = p["user_factors"][user].copy()
        if "chosen_factors" in p and chosen:
            vector += sum(p["chosen_factors"][j] for j in chosen) / math.sqrt(len(chosen))
        found += p["item_factors"][item] @ vector
    if "rated_weights" in p and item < ITEMS:
        _, left = left_of(ratings)
        similar = correlations(left, items=ITEMS, shrinkage=model.settings.shrinkage)[item]
        k = model.settings.neighbours
        near = [int(j) for j in np.argsort(-similar, kind="stable")[:k] if similar[j] > 0]
        w, c = (p[name].reshape(ITEMS + 1, k)[item] for name in ("rated_weights", "chosen_weights"))
        rated = [(number, left[u, j]) for number, j in enumerate(near) if (u, j) in left]
        if rated:
            found += sum(w[number] * value for number, value in rated) / math.sqrt(len(rated))
        taken = [number for number, j in enumerate(near) if j in chosen]
        if taken:
            found += sum(c[number] for number in taken) / math.sqrt(len(taken))
    return float(found)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("kind", LEARNED)
def test_predictions_are_the_published_sums(kind, implicit):
    ratings = drawn(implicit=implicit)
    model = kind.fit(ratings, validation=drawn(rows=20, seed=1), settings=QUICK)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # so that every part says something, of unknown users and items too
        for value in model.tiers.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    users, items = every_pair()
    expected = [by_hand(model, ratings, int(u), int(i)) for u, i in zip(users, items, strict=True)]
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(model.predict(users, items), np.clip(expected, 1, 5), atol=2e-5)


@pytest.mark.parametrize("kind", LEARNED)
def test_the_penalty_counts_a_parameter_for_each_row_that_reads_it(kind):
    ratings = drawn()
    model = kind(ratings, settings=QUICK, seed=0, device=torch.device("cpu"))
    with torch.no_grad():
        for value in model.tiers.parameters():
            value.add_(0.3)
    rows = np.arange(0, len(ratings), 2)
    near = model._near(ratings.users, ratings.items)
    batch = model._batch(ratings.users, ratings.items, rows, near)
    p = {name: value.detach().double().numpy() for name, value in model.tiers.state_dict().items()}
    items_of, begins = ratings.feedback
    _, left = left_of(ratings)
    similar = correlations(left, items=ITEMS, shrinkage=2.0)
    expected = 0.0
    for u, i in zip(ratings.users[rows], ratings.items[rows], strict=True):
        chosen = items_of[begins[u] : begins[u + 1]]
        expected += 2.0 * (p["user_bias"][u] ** 2 + p["item_bias"][i] ** 2)
        if "item_factors" in p:
            expected += 3.0 * ((p["user_factors"][u] ** 2).sum() + (p["item_factors"][i] ** 2).sum())
        if "chosen_factors" in p:
            expected += 3.0 * (p["chosen_factors"][chosen] ** 2).sum()
        if "rated_weights" in p:
            near_of = [j for j in np.argsort(-similar[i], kind="stable")[:4] if similar[i, j] > 0]
            w, c = (p[name].reshape(ITEMS + 1, 4)[i] for name in ("rated_weights", "chosen_weights"))
            expected += 5.0 * sum(w[n] ** 2 for n, j in enumerate(near_of) if (u, j) in left)
            expected += 5.0 * sum(c[n] ** 2 for n, j in enumerate(near_of) if j in chosen)
    found = model.tiers.penalty(batch, biases=2.0, factors=3.0, neighbours=5.0)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_gradient_of_the_integrated_model_is_that_of_its_sum():
    ratings = drawn()
    model = Integrated(ratings, settings=QUICK, seed=0, device=torch.device("cpu"))
    model.tiers.double()
    near = model._near(ratings.users, ratings.items)
    assert near is not None
    batch = model._batch(ratings.users, ratings.items, np.arange(8), near)
    assert batch.near is not None
    assert batch.chosen is not None
    for part in (batch.near, batch.chosen):
        object.__setattr__(part, "scale", part.scale.double())
    object.__setattr__(batch, "left", batch.left.double())
    values = torch.from_numpy(ratings.values[:8])
    parameters = dict(model.tiers.named_parameters())

    def loss() -> torch.Tensor:
        error = (model.tiers(batch) - values).square().sum()
        return error + model.tiers.penalty(batch, biases=0.3, factors=0.2, neighbours=0.1)

    loss().backward()
    rng = np.random.default_rng(0)
    moved = 0
    for name, value in parameters.items():
        assert value.grad is not None
        told = value.grad.flatten()
        places = np.flatnonzero(told.numpy())
        assert len(places), name
        for place in rng.permutation(places)[:4]:
            sums = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    value.view(-1)[place] += step
                    sums.append(loss().item())
                    value.view(-1)[place] -= step
            assert (sums[0] - sums[1]) / 2e-5 == pytest.approx(float(told[place]), rel=1e-4, abs=1e-7), name
            moved += 1
    assert moved >= 20


@pytest.mark.parametrize("name", MODELS)
def test_unknown_users_and_items_get_what_is_known_of_the_rest(name):
    ratings = drawn(implicit=False)
    found = MODELS[name].fit(ratings, validation=drawn(rows=20, seed=1))
    known, nobody = np.arange(ITEMS), np.full(ITEMS, -1)
    expected = found.predict(nobody, known)
    np.testing.assert_array_equal(found.predict(np.full(ITEMS, 3), known), expected)  # user 3 has no row
    np.testing.assert_array_equal(found.predict(np.full(ITEMS, USERS + 1), known), expected)
    assert np.isfinite(expected).all()
    if name != "global_mean":
        assert np.ptp(expected) > 0.05
    users = np.arange(USERS)
    np.testing.assert_array_equal(found.predict(users, np.full(USERS, 5)), found.predict(users, np.full(USERS, -1)))


@pytest.mark.parametrize("name", MODELS)
def test_a_fit_follows_from_its_seed_and_stays_in_the_range(name):
    ratings = drawn()
    users, items = every_pair()
    first, again = (MODELS[name].fit(ratings, seed=7).predict(users, items) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.min() >= ratings.values.min()
    assert first.max() <= ratings.values.max()


def planted(*, users=150, items=60, rows=4500, seed=0) -> tuple[Ratings, Ratings, Ratings]:
    """Training, validation and test ratings of biases and two factors, with noise of 0.5."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * items)[:rows]
    u, i = pairs // items, pairs % items
    p, q = rng.normal(size=(users, 2)), rng.normal(size=(items, 2))
    truth = 3 + 0.5 * rng.normal(size=users)[u] + 0.5 * rng.normal(size=items)[i] + 0.6 * (p[u] * q[i]).sum(1)
    values = truth + 0.5 * rng.normal(size=rows)
    whole = Ratings(u, i, values, users, items)
    order = rng.permutation(rows)
    return tuple(whole.part(np.sort(part)) for part in np.split(order, [rows * 7 // 10, rows * 8 // 10]))


def rmse(model, ratings: Ratings) -> float:
    return float(np.sqrt(np.mean((model.predict(ratings.users, ratings.items) - ratings.values) ** 2)))


def test_what_is_planted_is_found():
    train, validation, test = planted()
    settings = LearnedSettings(factors=4, neighbours=20, rows=256, learning_rate=0.02, shrinkage=10.0)
    biases = rmse(BiasBaseline.fit(train), test)
    assert rmse(GlobalMean.fit(train), test) > biases + 0.1
    for kind in (ItemNeighbours, UserNeighbours):
        assert rmse(kind.fit(train, shrinkage=10.0), test) < biases - 0.05
    for kind in LEARNED:
        model = kind.fit(train, validation=validation, settings=settings)
        assert rmse(model, test) < biases - 0.1, kind
        assert model.validation_rmse[model.epoch - 1] == pytest.approx(rmse(model, validation), rel=1e-5)
        assert model.epoch == int(np.argmin(model.validation_rmse)) + 1


def test_training_stops_by_the_validation_rows_alone():
    train, validation, _ = planted(rows=1500)
    noise = Ratings(
        validation.users,
        validation.items,
        np.random.default_rng(1).permutation(validation.values),
        validation.num_users,
        validation.num_items,
    )
    settings = LearnedSettings(factors=8, rows=128, learning_rate=0.05, patience=2)
    found = LatentFactors.fit(train, validation=noise, settings=settings)
    assert len(found.validation_rmse) <= found.epoch + 2
    own = LatentFactors.fit(train, settings=settings)
    assert own._ratings is not train
    assert len(own._ratings) == len(train) - round(0.05 * len(train))


@pytest.mark.parametrize(("kind", "share"), [(Neighbourhood, 1.0), (Integrated, 0.1)])
def test_weights_of_neighbours_learn_at_a_rate_of_their_own(kind, share):
    # one step of Adam moves each parameter by its rate at most, and by nearly that
    settings = replace(QUICK, epochs=1, rows=10**6, steps=1, groups=1, learning_rate=1e-2)
    tiers = kind.fit(drawn(), validation=drawn(), settings=settings).tiers
    started = kind(drawn(), settings=settings, seed=0, device=torch.device("cpu")).tiers
    assert tiers.rated_weights is not None
    assert float(tiers.rated_weights.detach().abs().max()) == pytest.approx(1e-2 * share, rel=1e-3)
    assert float((tiers.user_bias - started.user_bias).detach().abs().max()) == pytest.approx(1e-2, rel=1e-3)


def test_weights_count_as_rows():
    """A rating of weight 2 is one that stands twice, but that neighbours average it."""
    ratings = drawn(implicit=False)
    twice = np.arange(0, len(ratings), 3)
    weight = np.ones(len(ratings))
    weight[twice] = 2
    weighted = Ratings(ratings.users, ratings.items, ratings.values, USERS, ITEMS, weights=weight)
    repeated = ratings.part(np.sort(np.append(np.arange(len(ratings)), twice)))
    # the penalties are for rows that count 1 on average
    scale = len(ratings) / len(repeated)
    one = BiasBaseline.fit(weighted, user_penalty=5 * scale, item_penalty=3 * scale)
    other = BiasBaseline.fit(repeated, user_penalty=5.0, item_penalty=3.0)
    np.testing.assert_allclose(one.user_bias, other.user_bias, atol=1e-8)
    np.testing.assert_allclose(one.item_bias, other.item_bias, atol=1e-8)


def test_what_cannot_be_learned_from_is_refused():
    ratings = drawn()
    ids, values = np.zeros(2, dtype=np.int64), np.ones(2)
    with pytest.raises(DataError, match="no ratings"):
        ratings.part(np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="Rating 1 is nan"):
        Ratings(ids, ids, np.array([1, np.nan]), 1, 1)
    with pytest.raises(DataError, match="item of row 0 is 4; items are numbered from 0 to 2"):
        Ratings(ids, ids + 4, values, 3, 3)
    with pytest.raises(DataError, match="user of implicit row 0 is -1"):
        Ratings(ids, ids, values, 3, 3, implicit=(ids - 1, ids))
    with pytest.raises(DataError, match="weight of rating 1 is 0"):
        Ratings(ids, ids, values, 3, 3, weights=np.array([1.0, 0.0]))
    with pytest.raises(SettingsError, match="above 0, not 0"):
        BiasBaseline.fit(ratings, user_penalty=0.0)
    with pytest.raises(DataError, match="too few"):
        LatentFactors.fit(ratings.part(np.array([0])))
    with pytest.raises(DivergedError, match="learning_rate"):
        LatentFactors.fit(ratings, settings=LearnedSettings(learning_rate=1e30, epochs=3))
