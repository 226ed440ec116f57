"""Bag of items and latent factors: a world where they must work, empty histories, and MovieLens-1M."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.model_selection import train_test_split

from peterrec.baselines.bag_of_items import BagOfItems
from peterrec.baselines.item_matrix import Histories
from peterrec.baselines.lsa import LatentSemantic
from peterrec.metrics.classification import classification_metrics

DATA = Path(__file__).parents[2].parent / "shared" / "data"
NUM_ITEMS = 60


def world(seed: int, *, users: int = 240) -> tuple[Histories, np.ndarray]:
    """Two groups of users; each takes two of three items from its own half of the catalogue."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, users)
    lengths = random.integers(3, 12, users)
    owners = np.repeat(labels, lengths)
    own = random.random(len(owners)) < 2 / 3
    half = np.where(own, owners, 1 - owners)
    flat = (3 + 30 * half + random.integers(0, 30, len(owners))).astype(np.int32)
    return (flat, lengths), labels


def joined(*parts: Histories) -> Histories:
    return np.concatenate([flat for flat, _ in parts]), np.concatenate([lengths for _, lengths in parts])


EMPTY: Histories = (np.array([2, 2], dtype=np.int32), np.array([0, 2]))  # nothing, and special rows alone


def made(kind: str) -> BagOfItems | LatentSemantic:
    if kind == "lsa":
        return LatentSemantic(NUM_ITEMS, factors=16).pretrain(world(7, users=600)[0])
    return BagOfItems(NUM_ITEMS, weighting="binary" if kind == "binary" else "tfidf")


@pytest.mark.parametrize("kind", ["tfidf", "binary", "lsa"])
def test_tastes_tell_the_groups_apart(kind):
    histories, labels = world(0)
    test, truth = world(1)
    model = made(kind).fit(histories, labels, num_classes=3)
    found = model.predict(test)
    assert found[:, 2].tolist() == [0.0] * len(truth)
    assert classification_metrics(truth, found[:, :2])["roc_auc"] > 0.8


@pytest.mark.parametrize("kind", ["tfidf", "lsa"])
def test_users_without_items_get_the_shares_and_teach_nothing_else(kind):
    histories, labels = world(2, users=60)
    labels[:] = np.repeat([0, 1], [20, 40])
    model = made(kind).fit(histories, labels, num_classes=2)
    found = model.predict(joined(EMPTY, histories))
    assert found[:2] == pytest.approx(np.full((2, 2), [1 / 3, 2 / 3]))
    assert found[2:] == pytest.approx(model.predict(histories))
    assert model.predict((np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64))).shape == (0, 2)
    with_empty = made(kind).fit(joined(EMPTY, histories), np.append([0, 0], labels), num_classes=2)
    assert with_empty.predict(EMPTY) == pytest.approx(np.full((2, 2), [22 / 62, 40 / 62]))


@pytest.mark.parametrize("kind", ["tfidf", "lsa"])
def test_nobody_has_items(kind):
    if kind == "lsa":
        model = LatentSemantic(NUM_ITEMS).pretrain(EMPTY)
    else:
        model = BagOfItems(NUM_ITEMS)
    model.fit(EMPTY, [0, 1], num_classes=2)
    assert model.predict(world(0, users=3)[0]) == pytest.approx(np.full((3, 2), 0.5))


def test_fewer_users_than_factors():
    log, labels = world(3, users=5)
    model = LatentSemantic(NUM_ITEMS).pretrain(log).fit(log, labels, num_classes=2)
    assert model.predict(log).shape == (5, 2)
    one = world(4, users=1)[0]
    assert LatentSemantic(NUM_ITEMS).pretrain(one).fit(log, labels, num_classes=2).predict(one).shape == (
        1,
        2,
    )


def test_order_does_not_matter_and_repeats_are_damped():
    histories, labels = world(5)
    model = BagOfItems(NUM_ITEMS).fit(histories, labels, num_classes=2)
    user = np.array([3, 40, 41, 3])
    found = model.predict((np.concatenate([user, user[::-1]]), np.array([4, 4])))
    assert found[0] == pytest.approx(found[1])


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "ml1m_users.parquet").exists(), reason="MovieLens-1M is not at ../shared/data")
@pytest.mark.parametrize(
    ("column", "seeds", "accuracy", "area"),
    [("gender", 3, 0.812, 0.864), ("age", 1, 0.515, 0.837), ("occupation", 1, 0.202, 0.668)],
)
def test_known_figures_on_movielens(column, seeds, accuracy, area):
    """70/3/27 of users, stratified; the standard deviation over splits is about .01."""
    users = pq.read_table(DATA / "ml1m_users.parquet").to_pandas()
    ratings = pq.read_table(DATA / "ml1m_ratings.parquet").to_pandas().sort_values("user", kind="stable")
    films, rows = np.unique(ratings["item"], return_inverse=True)
    histories = np.split((rows + 3).astype(np.int32), np.cumsum(ratings.groupby("user").size())[:-1])
    classes, labels = np.unique(users[column], return_inverse=True)

    def of(chosen: np.ndarray) -> Histories:
        return np.concatenate([histories[user] for user in chosen]), np.array([len(histories[u]) for u in chosen])

    found = []
    for seed in range(seeds):
        rest, test = train_test_split(np.arange(len(labels)), test_size=0.27, stratify=labels, random_state=seed)
        train, _ = train_test_split(rest, train_size=0.70 / 0.73, stratify=labels[rest], random_state=seed)
        model = BagOfItems(len(films)).fit(of(train), labels[train], num_classes=len(classes))
        found.append(classification_metrics(labels[test], model.predict(of(test))))
    assert np.mean([one["accuracy"] for one in found]) == pytest.approx(accuracy, abs=0.02)
    assert np.mean([one["roc_auc"] for one in found]) == pytest.approx(area, abs=0.02)
