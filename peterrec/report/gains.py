"""The paired gains of a run on the page: all of them as tables, the telling ones as a figure."""

from collections.abc import Sequence
from html import escape
from typing import Any

from peterrec.report import reading
from peterrec.report.reading import Metrics
from peterrec.report.tables import scrolling

MANY = 24  # more rows than that are a list to look something up in, not to read


def gains_html(metrics: Metrics) -> str:
    """The paired gains as an HTML table with what each one shows; of many, all but the first model's are folded."""
    gains = reading.gains(metrics)
    if len(gains) <= MANY:
        return _table(gains, metrics, "Gains")
    first, metric = gains[0]["of"], reading.main_metric(metrics)
    told = [gain for gain in gains if gain["of"] == first and gain.get("metric", metric) == metric]
    others = [gain for gain in gains if gain not in told]
    return (
        _table(told, metrics, "Gains")
        + f'<details class="more"><summary>{len(others)} more</summary>'
        + _table(others, metrics, "More gains")
        + "</details>"
    )


def telling(metrics: Metrics) -> list[dict[str, Any]]:
    """The gains in the main metric to draw: all, or of many those over full fine-tuning, else the first model's."""
    metric = reading.main_metric(metrics)
    rows = [gain for gain in reading.gains(metrics) if gain.get("metric", metric) == metric]
    if len(rows) <= MANY:
        return rows
    reference = metrics.get("reference")
    over = [gain for gain in rows if gain["over"] == reference]
    return over or [gain for gain in rows if gain["of"] == rows[0]["of"]]


def _table(gains: Sequence[Metrics], metrics: Metrics, label: str) -> str:
    body = ""
    for gain in gains:
        shown = reading.shows(gain, reading.main_metric(metrics))
        sign = {"better": "▲ ", "worse": "▼ "}.get(shown, "")
        metric = escape(reading.label_of(gain.get("metric", "")))
        body += (
            f'<tr><th scope="row">{escape(reading.plain(gain["of"]))} <span class="quiet">over</span> '
            f"{escape(reading.plain(gain['over']))}<small>{metric}</small></th>"
            f'<td class="figure">{reading.number(gain.get("value"), signed=True)}'
            f"<small>{reading.interval(gain, signed=True)}</small></td>"
            f'<td class="{shown.replace(" ", "-")}">{sign}{shown}</td></tr>'
        )
    if not body:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("comparison", "gain", "shows"))
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", label)
