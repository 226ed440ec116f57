"""Popularity, Markov chain and item neighbours against plain loops; known figures on MovieLens-1M."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from peterrec.baselines.item_knn import ItemKNN
from peterrec.baselines.markov import MarkovRanker
from peterrec.baselines.popularity import PopularityRanker
from peterrec.metrics.ranking import rank_scores, ranking_metrics

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ITEMS = 9


def random_histories(seed: int, *, users: int = 30):
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 14, users)
    return random.integers(2, 3 + ITEMS, lengths.sum()).astype(np.int32), lengths


def item_lists(histories) -> list[list[int]]:
    parts = np.split(histories[0], np.cumsum(histories[1])[:-1])
    return [[row for row in part.tolist() if row >= 3] for part in parts]


def test_popularity_counts_events():
    histories = random_histories(0)
    counts = Counter(row for items in item_lists(histories) for row in items)
    scores = PopularityRanker.fit(histories, num_items=ITEMS).scores(random_histories(1, users=4))
    assert scores.tolist() == [[counts[row] for row in range(3 + ITEMS)]] * 4


def test_markov_counts_what_followed_the_last_item_then_popularity():
    train, test = random_histories(2), random_histories(3)
    pairs = Counter(pair for items in item_lists(train) for pair in pairwise(items))
    popular = Counter(row for items in item_lists(train) for row in items)
    scores = MarkovRanker.fit(train, num_items=ITEMS).scores(test)
    assert scores.shape == (30, 3 + ITEMS)
    empty = 0
    for items, row in zip(item_lists(test), scores, strict=True):
        empty += not items
        assert np.floor(row[3:]).tolist() == [pairs[items[-1], after] if items else 0 for after in range(3, 3 + ITEMS)]
        order = np.argsort(row[3:] - np.floor(row[3:]), kind="stable")
        assert [popular[3 + i] for i in order] == sorted(popular[3 + i] for i in range(ITEMS))
    assert empty


@pytest.mark.parametrize("neighbours", [3, 200])
def test_knn_sums_cosines_of_the_candidates_neighbours(neighbours):
    train, test = random_histories(4, users=300), random_histories(5)
    sets = {row: {user for user, items in enumerate(item_lists(train)) if row in items} for row in range(12)}
    popular = Counter(row for items in item_lists(train) for row in items)
    cosine = np.zeros((12, 12))
    for a in range(3, 12):
        for b in range(3, 12):
            if a != b and sets[a] and sets[b]:
                cosine[a, b] = len(sets[a] & sets[b]) / np.sqrt(len(sets[a]) * len(sets[b]))
    cut = np.sort(cosine, axis=1)[:, ::-1][:, min(neighbours, 12) - 1 : min(neighbours, 12)]
    cosine[cosine < cut] = 0
    scores = ItemKNN.fit(train, num_items=ITEMS, neighbours=neighbours, recent=4).scores(test)
    for items, row in zip(item_lists(test), scores, strict=True):
        expected = np.array([sum(cosine[candidate, item] for item in items[-4:]) for candidate in range(12)])
        assert row[expected > 0] == pytest.approx(expected[expected > 0], rel=1e-5)
        rest = [candidate for candidate in range(12) if expected[candidate] == 0]
        assert max(row[rest], default=0) < min(row[expected > 0], default=1)
        assert np.all(np.diff(row[sorted(rest, key=lambda candidate: popular[candidate])]) >= 0)


def test_knn_blocks_do_not_matter(monkeypatch):
    train, test = random_histories(6), random_histories(7)
    whole = ItemKNN.fit(train, num_items=ITEMS).scores(test)
    monkeypatch.setattr("peterrec.baselines.item_knn.CELLS", 30)
    assert np.array_equal(ItemKNN.fit(train, num_items=ITEMS).scores(test), whole)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "ml1m_ratings.parquet").exists(), reason="MovieLens-1M is not at ../shared/data")
@pytest.mark.parametrize(
    ("ranker", "hit", "gain"),
    [(PopularityRanker, 0.037, 0.018), (ItemKNN, 0.146, 0.077), (MarkovRanker, 0.215, 0.126)],
)
def test_known_figures_on_movielens(ranker, hit, gain):
    """Canonical leave-one-out, full ranking without the user's earlier items; fitted on the training part."""
    table = pq.read_table(DATA / "ml1m_ratings.parquet").to_pandas().dropna(subset=["pos"])
    table = table.sort_values(["user", "pos"])
    films, rows = np.unique(table["item"], return_inverse=True)
    rows = (rows + 3).astype(np.int32)
    lengths = table.groupby("user").size().to_numpy()
    last = np.cumsum(lengths) - 1
    known = np.delete(rows, last)
    model = ranker.fit((np.delete(rows, np.r_[last, last - 1]), lengths - 2), num_items=len(films))
    offsets = np.concatenate([[0], np.cumsum(lengths - 1)])

    def score(users: slice) -> torch.Tensor:
        part = known[offsets[users.start] : offsets[users.stop]]
        return torch.from_numpy(model.scores((part, lengths[users] - 1)).copy())

    ranks = rank_scores(
        score,
        torch.from_numpy(rows[last].astype(np.int64)),
        num_rows=3 + len(films),
        histories=(known, lengths - 1),
    )
    found = ranking_metrics(ranks)
    assert found["hr@10"].mean() == pytest.approx(hit, abs=0.0015)
    assert found["ndcg@10"].mean() == pytest.approx(gain, abs=0.0015)
