"""The baselines of a task on the splits of an arena: what a user would pick instead."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.bag_of_items import BagOfItems
from peterrec.baselines.lsa import LatentSemantic
from peterrec.baselines.majority import Majority
from peterrec.evaluation.arena import Arena
from peterrec.evaluation.contestants import BASELINES
from peterrec.metrics.intervals import ClassificationRows, metric_intervals

BASELINE = "baseline"
FACTORED_EVENTS = 20_000_000  # the most of a log whose latent factors are computed


def baselines(arena: Arena) -> tuple[list[dict[str, Any]], dict[str, list[ClassificationRows]]]:
    """Logistic regression on the bag of items and on latent semantic factors (LSA) of the unlabelled log, and the
    majority class, on the same splits: result rows, test rows.

    They train on the validation users too. Of very large logs no factors are computed.
    """
    histories, attribute = arena.prepared.sequences("histories"), arena.attribute
    num_classes = len(attribute.classes)

    def bag(places: NDArray[np.int64]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        rows = attribute.rows[places]
        return histories.gather(rows, np.zeros_like(rows), histories.lengths[rows])

    found: dict[str, dict[int, NDArray[np.float64]]] = {name: {} for name in BASELINES}
    if int(histories.lengths.sum()) > FACTORED_EVENTS:
        del found["lsa"]
    seconds = dict.fromkeys(found, 0.0)
    num_items = arena.prepared.vocabulary.num_items
    for seed, split in arena.splits.items():
        learned = np.concatenate([split.train, split.validation])
        labels = attribute.labels[learned]
        for name, probabilities in found.items():
            started = time.perf_counter()
            if name == "majority":
                majority = Majority.fit(labels, num_classes=num_classes)
                seconds[name] += time.perf_counter() - started
                probabilities[seed] = majority.predict(len(split.test))
                continue
            if name == "lsa":
                every = np.arange(len(histories))
                model = LatentSemantic(num_items, seed=seed)
                model.pretrain(histories.gather(every, np.zeros_like(every), histories.lengths))
            else:
                model = BagOfItems(num_items, seed=seed)
            model.fit(bag(learned), labels, num_classes=num_classes)
            seconds[name] += time.perf_counter() - started
            probabilities[seed] = model.predict(bag(split.test))
    rows = {name: arena.rows(probabilities) for name, probabilities in found.items()}
    results = [
        {
            "name": name,
            "role": BASELINE,
            "metrics": metric_intervals(each),
            "seconds": seconds[name] / len(arena.splits),
        }
        for name, each in rows.items()
    ]
    return results, rows
