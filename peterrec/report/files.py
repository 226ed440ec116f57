"""Writes what a run found: metrics.json, the card README.md and report.html."""

from typing import Any

from peterrec.run_folder import RunFolder


def write_results(
    folder: RunFolder,
    metrics: dict[str, Any],
    *,
    title: str,
    settings: dict[str, Any],
    usage: list[str],
    summary: dict[str, Any] | None = None,
) -> None:
    """Writes the three files into the run folder; `summary` is that of the prepared log."""
    from peterrec.report.card import card_markdown
    from peterrec.report.page import report_html

    folder.write_json("metrics.json", metrics)
    folder.write_text("README.md", card_markdown(metrics, title=title, settings=settings, usage=usage))
    folder.write_text("report.html", report_html(metrics, title=title, settings=settings, usage=usage, summary=summary))
