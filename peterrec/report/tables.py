"""The tables of a run: for the console (rich) and for the page (HTML), from the same rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from peterrec.report import reading
from peterrec.report.reading import Metrics

if TYPE_CHECKING:
    from rich.table import Table

NARROW, METRIC = 40, 15  # columns of name, parameters and seconds; columns of a metric
WIDE_METRICS = 4  # that many columns of "[0.790, 0.830]" fit into 100 beside name, parameters and seconds
LONG_LINES = 24  # more metrics than that stand below each other while all of it stays on one screen
ROOMY_CLASSES = 7  # up to here a cell of the confusion matrix has room for the share below the count
MARK = "*"
LEGEND = f"{MARK} better than the best baseline: the paired gain's 95 % interval excludes 0."


@dataclass(frozen=True)
class Cell:
    """One figure as text; `proven` marks a gain over the best baseline that excludes 0."""

    value: str
    interval: str
    proven: bool


@dataclass(frozen=True)
class Row:
    """One result as text; `cells` stand in the order of `reading.metric_names`."""

    name: str
    role: str
    cells: tuple[Cell, ...]
    trained: str
    share: str
    seconds: str


def result_rows(metrics: Metrics) -> list[Row]:
    """The results as rows of text, grouped by role: models, controls, baselines, ceiling."""
    names = reading.metric_names(metrics)
    rows = []
    for result in reading.results(metrics):
        figures = [reading.figure_of(result, name) for name in names]
        model = result.get("role", "model") == "model"
        cells = tuple(
            Cell(
                value=reading.number(figure.get("value")),
                interval=reading.interval(figure),
                proven=model and reading.proven(metrics, result.get("name"), name),
            )
            for name, figure in zip(names, figures, strict=True)
        )
        seconds = reading.finite(result.get("seconds"))
        row = Row(
            name=reading.plain(result.get("name", "")),
            role=reading.plain(result.get("role", "model")),
            cells=cells,
            trained=reading.parameters(result.get("trained_parameters")),
            share=reading.percent(result.get("trained_share")),
            seconds=reading.ABSENT if seconds is None else f"{seconds:,.{1 if seconds < 100 else 0}f}",
        )
        rows.append(row)
    return rows


def results_table(metrics: Metrics, *, width: int = 100) -> "Table":
    """The results for a console of `width` columns, of which at most 100 are used.

    Up to four metrics stand side by side (two on 80 columns), the interval below the value. More stand below each
    other, unless that fills more than a screen: then only the first are shown and the caption names the others.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names, rows = reading.metric_names(metrics), result_rows(metrics)
    side_by_side = min(max((width - NARROW) // METRIC, 1), WIDE_METRICS)
    long = len(names) > side_by_side and len(names) * len(rows) <= LONG_LINES
    shown = names if long else names[:side_by_side]
    notes = ["Value and 95 % interval (bootstrap over test users)."]
    notes += [LEGEND] if any(cell.proven for row in rows for cell in row.cells[: len(shown)]) else []
    hidden = ", ".join(reading.label_of(name) for name in names[len(shown) :])
    notes += [f"In metrics.json and report.html too: {hidden}."] if hidden else []
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.caption, table.caption_justify, table.caption_style = Text("\n".join(notes)), "left", "dim"
    if not rows:
        table.add_column("results")
        table.add_row("none were measured")
        return table
    longest = min(max(len(row.name) for row in rows), 16)
    table.add_column("", min_width=longest, max_width=24 if long else 16, overflow="fold")
    if long:
        table.add_column("metric", max_width=26, overflow="fold")
        table.add_column("value", max_width=24, overflow="fold")
    for name in () if long else shown:
        table.add_column(Text(reading.label_of(name)), justify="right", max_width=14, overflow="fold")
    table.add_column("trained", justify="right", max_width=13)
    table.add_column("seconds", justify="right", max_width=9)

    def figure(cell: Cell, between: str) -> Text:
        value = (cell.value + MARK, "bold") if cell.proven else cell.value
        return Text.assemble(value, between, (cell.interval, "dim"))

    for place, row in enumerate(rows):
        if place and rows[place - 1].role != row.role:
            table.add_section()
        about = Text.assemble(row.name, "\n", (row.role, "dim"))
        cost = Text.assemble(row.trained, "\n", (row.share, "dim"))
        cells = [figure(cell, " " if long else "\n") for cell in row.cells[: len(shown)]]
        if long:
            labels = Text("\n".join(reading.label_of(name) for name in shown))
            cells = [labels, Text("\n").join(cells)]
        table.add_row(about, *cells, cost, row.seconds)
    return table


def scrolling(table: str, label: str) -> str:
    """`table` in a container of its own that scrolls sideways and can be reached by keyboard."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{table}</div>'


def results_html(metrics: Metrics) -> str:
    """The results as an HTML table; the mark means what `LEGEND` says."""
    names, rows = reading.metric_names(metrics), result_rows(metrics)
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(reading.label_of(name))}</th>' for name in names)
    body = ""
    for row in rows:
        cells = "".join(
            f'<td class="figure proven"><b>{cell.value}{MARK}</b><small>{cell.interval}</small></td>'
            if cell.proven
            else f'<td class="figure">{cell.value}<small>{cell.interval}</small></td>'
            for cell in row.cells
        )
        role = row.role if row.role in ("model", "control", "baseline", "ceiling") else "other"
        body += (
            f'<tr class="{role}"><th scope="row">{escape(row.name)}'
            f'<small class="role">{escape(row.role)}</small></th>{cells}'
            f'<td class="figure">{row.trained}<small>{row.share}</small></td><td>{row.seconds}</td></tr>'
        )
    table = (
        f'<table class="results"><thead><tr><th scope="col">result</th>{head}'
        '<th scope="col">trained parameters<small>share of all</small></th><th scope="col">seconds</th>'
        f"</tr></thead><tbody>{body}</tbody></table>"
    )
    marked = any(cell.proven for row in rows for cell in row.cells)
    note = f'<p class="note">{escape(LEGEND)}</p>' if marked else ""
    return scrolling(table, "Results") + note


def gains_html(metrics: Metrics) -> str:
    """The paired gains as an HTML table with what each one shows."""
    body = ""
    for gain in reading.gains(metrics):
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
    return scrolling(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", "Gains")


def class_recalls(confusion: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Each class with its number of users and the share of them that was recognised (None without users)."""
    labels, matrix = confusion.get("labels") or [], confusion.get("matrix") or []
    recalls = []
    for index, (label, row) in enumerate(zip(labels, matrix, strict=False)):
        counts = [reading.finite(value) or 0.0 for value in row]
        total = sum(counts)
        recalls.append((reading.plain(label), total, counts[index] / total if total and index < len(row) else None))
    return recalls


def _class_name(label: str) -> str:
    return escape(label).replace("/", "/<wbr>")  # may break after a stroke: "executive/managerial"


def confusion_html(confusion: Mapping[str, Any]) -> str:
    """The confusion matrix as a table: counts, shaded by the share of the true class (row)."""
    recalls = class_recalls(confusion)
    if not recalls:
        return ""
    roomy = len(recalls) <= ROOMY_CLASSES
    head = "".join(f'<th scope="col"><span>{escape(label)}</span></th>' for label, _, _ in recalls)
    body = ""
    for index, ((label, total, recall), row) in enumerate(zip(recalls, confusion["matrix"], strict=False)):
        cells = ""
        for column, value in enumerate(row):
            share = (reading.finite(value) or 0.0) / total if total else 0.0
            below = f"<small>{100 * share:.0f}%</small>" if roomy and total else ""
            hit = ' class="hit"' if column == index else ""
            cells += f'<td{hit} style="--share:{share:.3f}">{reading.count(value)}{below}</td>'
        recognised = reading.ABSENT if recall is None else f"{100 * recall:.0f}%"
        body += (
            f'<tr><th scope="row">{_class_name(label)}</th>{cells}'
            f'<td class="total">{reading.count(total)}</td><td class="total">{recognised}</td></tr>'
        )
    table = (
        f'<table class="confusion{"" if roomy else " many"}"><thead><tr>'
        f'<th scope="col">true \\ predicted</th>{head}'
        '<th scope="col"><span>all</span></th><th scope="col"><span>recall</span></th></tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    return scrolling(table, "Confusion matrix")


def pairs_html(pairs: Sequence[tuple[str, str]], label: str) -> str:
    """Names and values as a table of two columns."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return scrolling(f'<table class="pairs"><tbody>{body}</tbody></table>', label)
