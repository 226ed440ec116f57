"""What the commands print: tables, counts, the results of a run."""

from pathlib import Path
from typing import Any

import typer


def show_table(renderable: Any) -> None:
    """Prints what rich can render, as wide as the terminal."""
    from rich.console import Console

    Console().print(renderable)


def show_results(metrics: dict[str, Any], output: Path) -> None:
    """The table of a run's results, the verdict in words, and where they were written."""
    from rich.console import Console

    from peterrec.report.console import results_table
    from peterrec.report.reading import verdict

    show_table(results_table(metrics, width=Console().width))
    typer.echo(verdict(metrics))
    for line in gain_lines(metrics):
        typer.echo(line)
    typer.echo(f"\nWritten to {output}: metrics.json, README.md, report.html")


def gain_lines(metrics: dict[str, Any]) -> list[str]:
    """The first model's paired gains in the main metric over controls and the other models, one a line."""
    from peterrec.report import reading

    found = [gain for gain in reading.gains(metrics) if gain.get("metric") == metrics.get("metric")]
    roles = {result.get("name"): result.get("role") for result in metrics.get("results", [])}
    return [
        f"{gain['of']} over {gain['over']}: {reading.label_of(gain['metric'])} {reading.estimate(gain, signed=True)}, "
        f"{reading.shows(gain)}"
        for gain in found
        if gain["of"] == found[0]["of"] and roles.get(gain["over"]) in ("model", "control")
    ]


def show_counts(counts: dict[str, Any]) -> None:
    """One line a count."""
    for name, value in counts.items():
        typer.echo(f"{name.replace('_', ' ')}: {f'{value:,}' if isinstance(value, int) else value}")
