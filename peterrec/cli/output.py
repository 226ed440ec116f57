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

    from peterrec.report.reading import verdict
    from peterrec.report.tables import results_table

    show_table(results_table(metrics, width=Console().width))
    typer.echo(verdict(metrics))
    typer.echo(f"\nWritten to {output}: metrics.json, README.md, report.html")


def show_counts(counts: dict[str, Any]) -> None:
    """One line a count."""
    for name, value in counts.items():
        typer.echo(f"{name.replace('_', ' ')}: {f'{value:,}' if isinstance(value, int) else value}")
