"""How well an encoder and the baselines predict the next item: full ranking, ties by expectation, intervals."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from peterrec.baselines.item_knn import ItemKNN
from peterrec.baselines.markov import MarkovRanker
from peterrec.baselines.popularity import PopularityRanker
from peterrec.data.prepared import PreparedLog
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import rank_next_items
from peterrec.metrics.intervals import RankingRows, metric_intervals, paired_gain
from peterrec.metrics.ranking import Histories, Ranks, rank_scores, ranking_metrics

KS = (10, 5, 20)
MAIN = "ndcg@10"
KEPT = " (history kept)"
Ranker = Callable[[bool], Ranks]


def protocol(prepared: PreparedLog) -> str:
    """In words: what is ranked against what."""
    split = prepared.summary["split"]
    unseen = prepared.summary["parts"]["test"].get("unseen_targets", 0)
    left_out = f" {unseen:,} targets that training never saw are left out." if unseen else ""
    return (
        f"Next item on the test part of the split {split['name']} ({prepared.summary['parts']['test']['rows']:,} users): "
        f"each user's held-out item is ranked among all {prepared.vocabulary.num_items:,} items, those that the user "
        "has had removed (figures marked “history kept” leave them in). Ties count by their expectation; 95 % bootstrap "
        f"intervals over users.{left_out} {split['caveat']}"
    )


def evaluate_next_item(
    prepared: PreparedLog, *, encoder: UserEncoder, device: torch.device, model_facts: dict[str, Any]
) -> dict[str, Any]:
    """The `results` and `gains` of an encoder beside popularity, item-kNN and the first-order Markov chain.

    `model_facts` (trained parameters, share, seconds) stand in the encoder's row. Raises DataError where the test
    part is empty.
    """
    test, train = prepared.sequences("test"), prepared.sequences("train")
    if not len(test):
        raise DataError(f"{prepared.folder}: the test part has no users; prepare the log with another split.")
    learned = _whole(train)
    items = prepared.vocabulary.num_items

    def by_encoder(remove: bool) -> Ranks:
        return rank_next_items(
            encoder, test, max_length=encoder.config.max_length, device=device, remove_history=remove
        )

    models: list[tuple[str, str, Callable[[], Any] | None]] = [
        ("encoder", "model", None),
        ("markov", "baseline", lambda: MarkovRanker.fit(learned, num_items=items)),
        ("item_knn", "baseline", lambda: ItemKNN.fit(learned, num_items=items)),
        ("popularity", "baseline", lambda: PopularityRanker.fit(learned, num_items=items)),
    ]
    results, rows = [], {}
    for name, role, fit in models:
        started = time.perf_counter()
        ranker = by_encoder if fit is None else _ranker_of(fit(), test, items)
        values = ranking_metrics(ranker(True), ks=KS)
        values |= {f"{metric}{KEPT}": kept for metric, kept in ranking_metrics(ranker(False), ks=(10,)).items()}
        rows[name] = [RankingRows(_users(test), values)]
        facts = model_facts if fit is None else {"seconds": time.perf_counter() - started}
        results.append({"name": name, "role": role, "metrics": metric_intervals(rows[name]), **facts})
    gains = []
    for name in list(rows)[1:]:
        gain = paired_gain(rows["encoder"], rows[name], metric=MAIN)
        if gain is not None:
            gains.append({"metric": MAIN, "of": "encoder", "over": name, **vars(gain)})
    return {"metric": MAIN, "results": results, "gains": gains}


def _users(sequences: Sequences) -> np.ndarray:
    return np.arange(len(sequences))  # one row a user


def _whole(sequences: Sequences) -> Histories:
    rows = np.arange(len(sequences))
    return sequences.gather(rows, np.zeros_like(rows), sequences.lengths)


def _ranker_of(baseline: Any, test: Sequences, num_items: int) -> Ranker:
    assert test.targets is not None
    targets = torch.from_numpy(test.targets.astype(np.int64))

    def rank(remove: bool) -> Ranks:
        def score(users: slice) -> torch.Tensor:
            rows = np.arange(users.start, users.stop)
            found = baseline.scores(test.gather(rows, np.zeros_like(rows), test.lengths[rows]))
            return torch.from_numpy(np.array(found))  # popularity hands out a read-only view

        return rank_scores(score, targets, num_rows=FIRST_ITEM + num_items, histories=_whole(test) if remove else None)

    return rank
