"""The ceiling of a task on the embedded world, whose oracle is known."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peterrec.evaluation.arena import Arena
from peterrec.evaluation.contestants import ORACLE
from peterrec.evaluation.world import world_of
from peterrec.metrics.intervals import ClassificationRows, metric_intervals


def ceiling(arena: Arena) -> tuple[list[dict[str, Any]], dict[str, list[ClassificationRows]]]:
    """The oracle of the embedded world: the exact posterior given the history; nothing for real logs."""
    world = world_of(arena.prepared)
    if world is None or arena.plan.task.column not in world.parameters.classes:
        return [], {}
    started = time.perf_counter()
    histories, attribute = arena.prepared.sequences("histories"), arena.attribute
    order = [str(name) for name in world.classes(arena.plan.task.column)]
    columns = [order.index(name) for name in attribute.classes]
    tested = np.unique(np.concatenate([attribute.rows[split.test] for split in arena.splits.values()]))
    items = [arena.prepared.vocabulary.ids(histories.items_of(int(row))) for row in tested]
    posterior = world.oracle_attribute(arena.plan.task.column, items)[:, columns]
    found: dict[int, NDArray[np.float64]] = {
        seed: posterior[np.searchsorted(tested, attribute.rows[split.test])] for seed, split in arena.splits.items()
    }
    rows = arena.rows(found)
    seconds = time.perf_counter() - started
    return [{"name": ORACLE, "role": "ceiling", "metrics": metric_intervals(rows), "seconds": seconds}], {ORACLE: rows}
