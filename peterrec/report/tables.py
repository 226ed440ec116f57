"""The results of a run as rows of text, for the console and for the page, and the page's table of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from peterrec.report import reading
from peterrec.report.reading import Metrics

COSTS = ("against", "rate", "trained", "file")  # the columns between metrics and seconds
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
    """One result as text; `cells` are in the order of `reading.metric_names`, `against` is a paired gain."""

    name: str
    role: str
    cells: tuple[Cell, ...]
    trained: str
    share: str
    seconds: str
    search: str
    rate: str
    file: str
    memory: str
    against: Cell


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
        row = Row(
            name=reading.plain(result.get("name", "")),
            role=reading.plain(result.get("role", "model")),
            cells=cells,
            trained=reading.parameters(result.get("trained_parameters")),
            share=reading.percent(result.get("trained_share")),
            seconds=reading.seconds(result.get("seconds")),
            search=reading.seconds(result.get("search_seconds")),
            rate=reading.rate(result.get("learning_rate")),
            file=reading.size(result.get("adapter_bytes")),
            memory=reading.size(result.get("peak_memory_bytes")),
            against=_against(metrics, result.get("name")),
        )
        rows.append(row)
    return rows


def _against(metrics: Metrics, name: object) -> Cell:
    gain = reading.gain_over_reference(metrics, name)
    if gain is None:
        own = name is not None and name == metrics.get("reference")
        return Cell("reference" if own else reading.ABSENT, "", proven=False)
    return Cell(reading.number(gain.get("value"), signed=True), reading.interval(gain, signed=True), proven=False)


def cost_columns(metrics: Metrics) -> list[str]:
    """Which of the columns "against", "rate", "trained" and "file" there is anything to put into."""
    keys = {"rate": ("learning_rate",), "file": ("adapter_bytes", "peak_memory_bytes")}
    found = [
        name
        for name, wanted in keys.items()
        if any(reading.finite(result.get(key)) is not None for result in reading.results(metrics) for key in wanted)
    ]
    against = ["against"] if metrics.get("reference") is not None else []
    return [name for name in COSTS if name in (*against, *found, "trained")]


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
        cells = "".join(cell_html(cell) for cell in row.cells) + costs_html(metrics, row)
        body += f'<tr class="{role_class(row)}">{name_html(row)}{cells}</tr>'
    table = (
        f'<table class="results"><thead><tr><th scope="col">result</th>{head}{cost_heads_html(metrics)}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    notes = [LEGEND] if any(cell.proven for row in rows for cell in row.cells) else []
    notes += reading.notes(metrics)
    return scrolling(table, "Results") + notes_html(notes)


def cell_html(cell: Cell) -> str:
    """A figure as a cell of a table."""
    if cell.proven:
        return f'<td class="figure proven"><b>{cell.value}{MARK}</b><small>{cell.interval}</small></td>'
    return _figure(cell.value, cell.interval)


def name_html(row: Row, *, lines: int = 1) -> str:
    """A result's name and role, beside so many lines of its figures."""
    over = f' rowspan="{lines}"' if lines > 1 else ""
    return f'<th scope="row"{over}>{escape(row.name)}<small class="role">{escape(row.role)}</small></th>'


def role_class(row: Row) -> str:
    """The class of a line of the table."""
    return row.role if row.role in ("model", "control", "baseline", "ceiling") else "other"


def cost_heads_html(metrics: Metrics) -> str:
    """The heads of the columns that `costs_html` fills."""
    heads = {
        "against": f"over {escape(reading.plain(metrics.get('reference')))}"
        f"<small>{escape(reading.label_of(reading.main_metric(metrics) or ''))}</small>",
        "rate": "learning rate",
        "trained": "trained parameters<small>share of all</small>",
        "file": "file<small>peak memory</small>",
    }
    searched = "<small>of the search</small>" if _searched(metrics) else ""
    told = "".join(f'<th scope="col">{heads[name]}</th>' for name in cost_columns(metrics))
    return f'{told}<th scope="col">seconds{searched}</th>'


def costs_html(metrics: Metrics, row: Row, *, lines: int = 1) -> str:
    """What a result cost, beside so many lines of its figures."""
    told = {
        "against": (row.against.value, row.against.interval),
        "rate": (row.rate, ""),
        "trained": (row.trained, row.share),
        "file": (row.file, row.memory),
    }
    cells = "".join(_figure(*told[name], lines=lines) for name in cost_columns(metrics))
    return cells + _figure(row.seconds, row.search if _searched(metrics) else "", lines=lines)


def notes_html(notes: Sequence[str]) -> str:
    """Lines below a table."""
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _searched(metrics: Metrics) -> bool:
    return any(reading.finite(result.get("search_seconds")) is not None for result in reading.results(metrics))


def _figure(value: str, below: str, *, lines: int = 1) -> str:
    over = f' rowspan="{lines}"' if lines > 1 else ""
    return f'<td class="figure"{over}>{value}{f"<small>{below}</small>" if below else ""}</td>'


def pairs_html(pairs: Sequence[tuple[str, str]], label: str) -> str:
    """Names and values as a table of two columns."""
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in pairs)
    return scrolling(f'<table class="pairs"><tbody>{body}</tbody></table>', label)
