"""The results of a comparison as a table of the tracker."""

from typing import Any

from peterrec.training.tracking import Tracker

COSTS = ("learning_rate", "trained_parameters", "adapter_bytes", "peak_memory_bytes", "seconds", "search_seconds")


def track_results(tracker: Tracker, metrics: dict[str, Any]) -> None:
    """Sends the results of `metrics` (the content of metrics.json), a row each: costs, figures and intervals."""
    names = sorted({name for result in metrics["results"] for name in result["metrics"]})
    table = []
    for result in metrics["results"]:
        row: list[Any] = [result["name"], result["role"], *(result.get(name) for name in COSTS)]
        for name in names:
            figure = result["metrics"].get(name, {})
            row += [figure.get("value"), figure.get("low"), figure.get("high")]
        table.append(row)
    columns = ["name", "role", *COSTS]
    columns += [f"{name}{suffix}" for name in names for suffix in ("", " low", " high")]
    tracker.table("comparison", columns=columns, rows=table)
