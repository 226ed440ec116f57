"""The results of tasks with classes: contestants, baselines and the ceiling on the same test users."""

from collections.abc import Mapping, Sequence
from typing import Any

from peterrec.evaluation.arena import Arena, errors_of, protocol, result_of
from peterrec.evaluation.baselines import baselines
from peterrec.evaluation.ceiling import ceiling
from peterrec.evaluation.contestants import RESERVED
from peterrec.evaluation.gains import gains_of, reference_of
from peterrec.evaluation.search_result import Searched
from peterrec.metrics.intervals import paired_gain
from peterrec.transfer import Contestant, Fitted


def one_model(arena: Arena, name: str, fitted: Mapping[int, Fitted]) -> dict[str, Any]:
    """What metrics.json holds of one model, its paired gains over the baselines, its errors."""
    others, baseline_rows = baselines(arena)
    rows = arena.rows({seed: each.probabilities for seed, each in fitted.items()})
    gains = []
    for over, theirs in baseline_rows.items():
        for metric in _metrics(arena):
            gain = paired_gain(rows, theirs, metric=metric)
            if gain is not None:
                gains.append({"metric": metric, "of": name, "over": over, **vars(gain)})
    return {
        "protocol": protocol(arena),
        "metric": arena.plan.task.metric,
        "results": [result_of(name, fitted, arena), *others],
        "gains": gains,
        **errors_of(fitted, arena),
    }


def all_models(
    arena: Arena, field: Sequence[tuple[Contestant, str]], found: Mapping[str, Searched[Fitted]], *, effort: str
) -> dict[str, Any]:
    """What metrics.json holds of a comparison; the errors are those of the first contestant."""
    first = field[0][0].name
    results, rows = [], {}
    for one, role in field:
        searched = found[one.name]
        results.append({**result_of(one.name, searched.fitted, arena, role=role), **searched.facts()})
        rows[one.name] = arena.rows({seed: each.probabilities for seed, each in searched.fitted.items()})
    for more, more_rows in (baselines(arena), ceiling(arena)):
        results += more
        rows |= more_rows
    models = [one.name for one, role in field if role == "model"]
    return {
        "protocol": f"{protocol(arena)} {effort} Confusion matrix and calibration are those of {first}.",
        "metric": arena.plan.task.metric,
        "reference": reference_of(models),
        "results": results,
        "gains": gains_of(models, rows, baselines=RESERVED, metrics=_metrics(arena)),
        **errors_of(found[first].fitted, arena),
    }


def _metrics(arena: Arena) -> list[str]:
    """The figures whose gains are told."""
    return list(dict.fromkeys((arena.plan.task.metric, "accuracy")))
