"""Paired gains: who is set against whom in a comparison."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from peterrec.metrics.intervals import Draws, Rows, gain_of, metric_draws

REFERENCE = "full"  # the adapter that all others are measured against: what one saves, and what it costs


def reference_of(models: Sequence[str]) -> str | None:
    """Full fine-tuning where it is among `models`."""
    return REFERENCE if REFERENCE in models else None


def gains_of(
    models: Sequence[str],
    rows: Mapping[str, Sequence[Rows]],
    *,
    baselines: Collection[str],
    metrics: Iterable[str],
) -> list[dict[str, Any]]:
    """The first model over everything else, the other models over `baselines` and over full fine-tuning.

    `rows` are the test rows of models, controls and baselines by name; the gains are paired by user.
    """
    found = []
    for metric in metrics:
        draws = {name: metric_draws(each, metric=metric) for name, each in rows.items()}
        found += gains_between(models, draws, baselines=baselines, metric=metric)
    return found


def gains_between(
    models: Sequence[str], draws: Mapping[str, Draws], *, baselines: Collection[str], metric: str
) -> list[dict[str, Any]]:
    """The same for one metric whose `draws` are known."""
    reference = reference_of(models)
    found = []
    for model in models:
        for name in draws:
            if name == model or (model != models[0] and name not in baselines and name != reference):
                continue
            gain = gain_of(draws[model], draws[name])
            if gain is not None:
                found.append({"metric": metric, "of": model, "over": name, **vars(gain)})
    return found
