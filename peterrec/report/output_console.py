"""The table of the results of impressions on a console."""

from typing import TYPE_CHECKING

from peterrec.report import reading
from peterrec.report.outputs import SHOWN, columns, lines, measured_against, measured_domains, measured_outputs
from peterrec.report.reading import Metrics
from peterrec.report.resampling import interval_note
from peterrec.report.tables import LEGEND, MARK, Cell, Row, result_rows

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

NAME, OUTPUT, FIGURE = 20, 10, 14  # widths of the columns at most; "[0.790, 0.830]" is 14
WIDEST = 106  # of the whole table: a name, an output, five figures
KEPT = ("auc", "log_loss", "pcoc", "ne", "gauc")  # where the console is narrow, the first of these
LONG_LINES = 24  # with the domains, if all of it stays on a screen or two


def outputs_table(metrics: Metrics, *, width: int = 100) -> "Table":
    """The results for a console of `width` columns, of which at most `WIDEST` are used: a line for each output.

    Domains stand below their outputs, unless that fills more than a screen or two. What is left out is named in the
    caption.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    rows, results = result_rows(metrics), reading.results(metrics)
    domains = len(rows) * len(measured_outputs(metrics)) * (1 + len(measured_domains(metrics))) <= LONG_LINES
    output = _output_width(metrics, domains=domains)
    name = min(max((len(row.name) for row in rows), default=0), NAME if width >= WIDEST else NAME - 5)
    name = max(name, len("123,456 trained"))
    beside = min(width, WIDEST) - output - 2
    room = (beside - name) // (FIGURE + 1)
    known = columns(metrics, shown=SHOWN)
    kept = [name for name in (*KEPT, *known) if name in known]
    measures = [name for name in known if name in kept[: max(room, 1)]]
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
    longest = max(name, beside - len(measures) * (FIGURE + 1))
    table.add_column("", max_width=longest, overflow="fold")
    table.add_column("output", max_width=output, overflow="fold")
    for name in measures:
        table.add_column(Text(reading.label_of(name)), justify="right", max_width=FIGURE, overflow="fold")
    proven = False
    for row, result in zip(rows, results, strict=True):
        found = lines(metrics, result, measures, by_domain=domains)
        proven = proven or any(cell.proven for line in found for cell in line.cells)
        told = _facts(row, lines=len(found))
        for place, line in enumerate(found):
            named = Text(line.output) if line.domain is None else Text(f"  {line.domain}", style="dim")
            table.add_row(told[place], named, *(_figure(cell) for cell in line.cells))
        if not found:
            table.add_row(Text("\n").join(told), Text("not measured"))
        table.add_section()
    hidden = [reading.label_of(name) for name in columns(metrics) if name not in measures]
    hidden += ["domains"] if measured_domains(metrics) and not domains else []
    notes = [interval_note(metrics), *([LEGEND] if proven else []), *measured_against(metrics)]
    notes += [f"In metrics.json and report.html too: {', '.join(hidden)}."] if hidden else []
    table.caption = Text("\n".join([*notes, *reading.notes(metrics)]))
    table.caption_justify, table.caption_style = "left", "dim"
    return table


def _output_width(metrics: Metrics, *, domains: bool) -> int:
    names = [reading.label_of(name) for name in measured_outputs(metrics)]
    names += [f"  {reading.plain(name)}" for name in measured_domains(metrics)] if domains else []
    return min(max(map(len, [*names, "output"])), OUTPUT)


def _facts(row: Row, *, lines: int) -> "list[Text]":
    """Name, role and costs, beside so many lines of two rows each."""
    from rich.text import Text

    told = [Text.assemble(row.name, "\n", (row.role, "dim"))]
    costs = ((row.trained, "trained"), (row.seconds, "s"))
    if known := [f"{value} {unit}" for value, unit in costs if value != reading.ABSENT]:
        told.append(Text("\n".join(known), "dim"))
    if lines < len(told):
        return [Text("\n").join(told)]
    return [*told, *(Text() for _ in range(lines - len(told)))]


def _figure(cell: Cell) -> "Text":
    from rich.text import Text

    return Text.assemble((cell.value + MARK, "bold") if cell.proven else cell.value, "\n", (cell.interval, "dim"))
