"""What metrics.json holds of a fused score: it and the single predictions on the test rows, and how it was found."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from peterrec.evaluation.gains import gains_between
from peterrec.fusion.formula import Floats, Fusion, single
from peterrec.fusion.goal import WEIGHTED, Goal
from peterrec.fusion.predictions import Predictions
from peterrec.fusion.scored_rows import ScoredRows
from peterrec.fusion.tuning import Tried, Tuned
from peterrec.metrics.impression_rows import bootstrap_facts, replicates_of
from peterrec.metrics.intervals import AllDraws, all_draws

FUSED, EQUAL = "fused", "equal_weights"


def fusion_results(
    rows: Predictions, fusion: Fusion, *, goals: Sequence[Goal], tuned: Tuned | None, seconds: float
) -> dict[str, Any]:
    """The fused score beside every single prediction and equal weights, on the rows that test.

    Gains over these are paired, on the same resampled users. `seconds` is what the search took.
    """
    names = list(fusion.weights)
    scores: dict[str, Floats] = {FUSED: fusion.scores(rows.predicted)}
    scores |= {name: values for name, values in rows.predicted.items() if np.isfinite(values).all()}
    if len(names) > 1 and len(set(fusion.weights.values())) > 1:
        scores[EQUAL] = Fusion(fusion.form, dict.fromkeys(names, 1.0)).scores(rows.predicted)
    shown = [
        Goal(label, measure)
        for label in dict.fromkeys(goal.label for goal in goals)
        for measure in (("auc", "gauc") if rows.users else ("auc",))
    ]
    parts = rows.rows(rows.tested)
    draws: dict[str, AllDraws] = {}
    replicates = 0
    for name, score in scores.items():
        measured = [ScoredRows(rows, at, score[at], goals=goals, measures=shown) for at in parts]
        replicates = replicates_of(measured)
        draws[name] = all_draws(measured, replicates=replicates)
    told = [WEIGHTED] * (len(goals) > 1) + [str(goal) for goal in goals]
    gains = []
    for metric in told:
        of_metric = {name: each.of(metric) for name, each in draws.items()}
        gains += gains_between([FUSED], of_metric, baselines=[], metric=metric)
    results = [
        {"name": name, "role": "model" if name == FUSED else "baseline", "metrics": each.intervals()}
        for name, each in draws.items()
    ]
    results[0]["seconds"] = seconds
    return {
        "metric": told[0],
        "protocol": _protocol(rows, fusion, goals, tuned),
        "results": results,
        "gains": gains,
        "bootstrap": bootstrap_facts(users=rows.users, replicates=replicates),
        "fusion": _facts(fusion, goals, tuned, names),
    }


def _facts(fusion: Fusion, goals: Sequence[Goal], tuned: Tuned | None, names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "form": fusion.form,
        "weights": fusion.weights,
        "formula": fusion.told(),
        "goals": [{"metric": str(goal), "weight": goal.weight} for goal in goals],
    }
    if tuned is None:
        return found
    alone = [single(fusion.form, name, names) for name in names]
    return found | {
        "chosen": _point(tuned.chosen),
        "front": [_point(one) for one in tuned.front],
        "singles": [
            {"name": name, "values": list(one.values)}
            for name, wanted in zip(names, alone, strict=True)
            for one in tuned.tried
            if one.fusion == wanted
        ],
        "tried": [list(one.values) for one in tuned.tried],
    }


def _point(one: Tried) -> dict[str, Any]:
    return {"weights": one.fusion.weights, "values": list(one.values), WEIGHTED: one.mean}


def _protocol(rows: Predictions, fusion: Fusion, goals: Sequence[Goal], tuned: Tuned | None) -> str:
    wanted = ", ".join(f"{goal} (weight {goal.weight:g})" if len(goals) > 1 else str(goal) for goal in goals)
    scored = "its logarithm is the score" if fusion.form == "product" else "the sum is the score"
    found = (
        "The weights were given; if they were found on these rows, the figures flatter them."
        if tuned is None
        else f"{len(tuned.tried)} fusions were tried on {int(rows.tuned.sum()):,} rows that tune, none of which is "
        "tested; kept is the best "
        + ("weighted mean of the metrics" if len(goals) > 1 else "one")
        + f", of {len(tuned.front)} on the Pareto front." * (len(goals) > 1)
        + "." * (len(goals) == 1)
    )
    return (
        f"{fusion.told()}; {scored}. Metrics: {wanted}. Parts: {rows.told}. {found} Measured on "
        f"{int(rows.tested.sum()):,} test rows of {rows.origin}; 95 % bootstrap intervals over test "
        f"{'users' if rows.users else 'rows'}; gains are paired."
    )
