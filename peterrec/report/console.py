"""The table of a run's results on a console."""

from typing import TYPE_CHECKING

from peterrec.report import reading
from peterrec.report.output_console import outputs_table
from peterrec.report.outputs import measured_outputs
from peterrec.report.reading import Metrics
from peterrec.report.resampling import interval_note
from peterrec.report.tables import LEGEND, MARK, Cell, Row, cost_columns, result_rows

if TYPE_CHECKING:
    from rich.table import Table

NAME, METRIC, SECONDS = 15, 14, 7  # widths of these columns
COSTS = {"against": 16, "rate": 6, "trained": 9, "file": 7}
SPARED = {"rate": "learning rate", "file": "file and memory"}  # left out first where the console is narrow
WIDE_METRICS = 4  # that many columns of "[0.790, 0.830]" fit into 100 beside name, parameters and seconds
LONG_LINES = 24  # more metrics than that stand below each other while all of it stays on one screen


def results_table(metrics: Metrics, *, width: int = 100) -> "Table":
    """The results for a console of `width` columns, of which at most 100 are used.

    Up to four metrics stand side by side (two on 80 columns; fewer beside costs and gains), the interval below the
    value. More stand below each other, unless that fills more than a screen: then only the first are shown and the
    caption names the others. Impressions have a table of their own.
    """
    if measured_outputs(metrics):
        return outputs_table(metrics, width=width)
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names, rows = reading.metric_names(metrics), result_rows(metrics)
    costs = _fitting(cost_columns(metrics), width)
    gap = _gap(costs)
    side_by_side = min(max(_room(costs, width) // (METRIC + gap), 1), WIDE_METRICS)
    long = len(names) > side_by_side and len(names) * len(rows) <= LONG_LINES and "against" not in costs
    shown = names if long else names[:side_by_side]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, gap - 1, 0, 0), pad_edge=False, show_edge=False)
    table.caption = Text("\n".join(_notes(metrics, rows, shown=shown, costs=costs)))
    table.caption_justify, table.caption_style = "left", "dim"
    if not rows:
        table.add_column("results")
        table.add_row("none were measured")
        return table
    roomy = long and costs == ["trained"]
    widest = 24 if roomy else NAME if long else NAME + max(_room(costs, width) - side_by_side * (METRIC + gap), 0)
    longest = min(max(len(row.name) for row in rows), NAME)
    table.add_column("", min_width=longest, max_width=widest, overflow="fold")
    if long:
        table.add_column("metric", max_width=26 if roomy else 22, overflow="fold")
        table.add_column("value", max_width=24, overflow="fold")
    for name in () if long else shown:
        table.add_column(Text(reading.label_of(name)), justify="right", max_width=METRIC, overflow="fold")
    heads = {
        "against": f"over {reading.plain(metrics.get('reference'))}",
        "rate": "rate",
        "trained": "trained",
        "file": "file",
    }
    for name in costs:
        below = "\nmemory" if name == "file" else ""
        table.add_column(Text(heads[name] + below), justify="right", max_width=COSTS[name], overflow="fold")
    searched = any(row.search != reading.ABSENT for row in rows)
    table.add_column("seconds\nsearch" if searched else "seconds", justify="right", max_width=SECONDS + 2)

    def figure(cell: Cell, between: str) -> Text:
        value = (cell.value + MARK, "bold") if cell.proven else cell.value
        return Text.assemble(value, between, (cell.interval, "dim"))

    for place, row in enumerate(rows):
        if place and rows[place - 1].role != row.role:
            table.add_section()
        cells = [figure(cell, " " if long else "\n") for cell in row.cells[: len(shown)]]
        if long:
            labels = Text("\n".join(reading.label_of(name) for name in shown))
            cells = [labels, Text("\n").join(cells)]
        told = {
            "against": figure(row.against, "\n"),
            "rate": Text(row.rate),
            "trained": Text.assemble(row.trained, "\n", (row.share, "dim")),
            "file": Text.assemble(row.file, "\n", (row.memory, "dim")),
        }
        cost = [told[name] for name in costs]
        seconds = Text.assemble(row.seconds, "\n", (row.search, "dim")) if searched else Text(row.seconds)
        table.add_row(Text.assemble(row.name, "\n", (row.role, "dim")), *cells, *cost, seconds)
    return table


def _gap(costs: list[str]) -> int:
    """Spaces between two columns."""
    return 1 if "against" in costs else 2


def _room(costs: list[str], width: int) -> int:
    """What is left for metrics, each with a gap."""
    gap = _gap(costs)
    return min(width, 100) - NAME - SECONDS - gap - sum(COSTS[name] + gap for name in costs)


def _fitting(costs: list[str], width: int) -> list[str]:
    """The cost columns beside which a metric has room."""
    for spared in SPARED:
        if _room(costs, width) < METRIC + _gap(costs):
            costs = [name for name in costs if name != spared]
    return costs


def _notes(metrics: Metrics, rows: list[Row], *, shown: list[str], costs: list[str]) -> list[str]:
    notes = [interval_note(metrics)]
    notes += [LEGEND] if any(cell.proven for row in rows for cell in row.cells[: len(shown)]) else []
    if "against" in costs:
        metric = reading.label_of(reading.main_metric(metrics) or "")
        notes.append(f"over {reading.plain(metrics.get('reference'))}: the paired gain in {metric}.")
    hidden = [reading.label_of(name) for name in reading.metric_names(metrics) if name not in shown]
    hidden += [SPARED[name] for name in cost_columns(metrics) if name not in costs]
    notes += [f"In metrics.json and report.html too: {', '.join(hidden)}."] if hidden else []
    return notes + reading.notes(metrics)
