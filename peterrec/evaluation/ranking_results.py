"""The results of tasks that rank items: contestants and baselines on the same test events."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from peterrec.evaluation.cold_start import Entrant, cold_start_results
from peterrec.evaluation.costs import costs_of
from peterrec.evaluation.cross_baselines import cold_start_baselines
from peterrec.evaluation.encoder_sight import encoder_sight
from peterrec.evaluation.ranking_arena import RankingArena
from peterrec.evaluation.ranking_fitted import RankingFitted

MEASURED = (
    "Memory is the peak of the process while training (on a CUDA device, of its tensors); the file holds adapter and "
    "head, or the whole model where all trains."
)


def entrant_of(name: str, role: str, fitted: Mapping[int, RankingFitted], **facts: Any) -> Entrant:
    """A contestant, trained on every seed, as it stands in the table; `facts` are added to its costs."""
    measured = {seed: each.measured for seed, each in fitted.items()}
    return Entrant(name, role, measured, {**costs_of(fitted), **facts})


def ranking_results(arena: RankingArena, entrants: Sequence[Entrant], *, effort: str = "") -> dict[str, Any]:
    """What metrics.json holds of `entrants`, the first of which is the model, and of all baselines."""
    plan = arena.plan
    baselines, skipped = cold_start_baselines(arena.cold)
    found = cold_start_results(arena.cold, [*entrants, *baselines], skipped=skipped, watched=plan.task.metric)
    found["results"] = [reported(result, plan.task.metrics) for result in found["results"]]
    said = (found["protocol"], MEASURED, encoder_sight(plan.encoder, arena.pairs), effort)
    found["protocol"] = " ".join(filter(None, said))
    return found


def reported(result: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A row of results with the figures `names` alone, in their order."""
    figures = result["metrics"]
    return {**result, "metrics": {name: figures[name] for name in names if name in figures}}


def ranked_places(fitted: Mapping[int, RankingFitted], arena: RankingArena) -> pa.Table:
    """The test events of every seed: user, seed, item (the target), place (from 1; that of ties is their middle)."""
    pairs, cold = arena.pairs, arena.cold
    tables = []
    for seed, each in fitted.items():
        events = cold.events(cold.splits[seed].test)
        columns = {
            "user": pairs.users.array.take(pa.array(pairs.owner[events])),
            "seed": pa.array(np.full(len(events), seed)),
            "item": pa.array(pairs.target_vocabulary.ids(pairs.item[events]), pa.string()),
            "place": pa.array(each.measured.places),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)
