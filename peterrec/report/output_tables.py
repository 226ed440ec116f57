"""The results of impressions on the page: by output, and by output and domain."""

from html import escape

from peterrec.metrics.measure_name import PROBABILITY_MEASURES, VALUE_MEASURES, MeasureName
from peterrec.report import reading
from peterrec.report.outputs import (
    SHOWN,
    cell_of,
    columns,
    lines,
    meaning,
    measured_against,
    measured_domains,
    measured_outputs,
)
from peterrec.report.reading import Metrics
from peterrec.report.resampling import interval_note
from peterrec.report.tables import (
    LEGEND,
    MARK,
    cell_html,
    cost_heads_html,
    costs_html,
    name_html,
    notes_html,
    result_rows,
    role_class,
    scrolling,
)


def outputs_html(metrics: Metrics) -> str:
    """All results, a line for each of their outputs."""
    # what weighs users otherwise stands with the domains, where there are some
    measures, body = columns(metrics, shown=SHOWN if measured_domains(metrics) else PROBABILITY_MEASURES), ""
    for row, result in zip(result_rows(metrics), reading.results(metrics), strict=True):
        found = lines(metrics, result, measures)
        if not found:
            empty = f'<td class="place" colspan="{1 + len(measures)}">not measured</td>'
            body += f'<tr class="{role_class(row)}">{name_html(row)}{empty}{costs_html(metrics, row)}</tr>'
        for place, line in enumerate(found):
            cells = "".join(map(cell_html, line.cells))
            first = name_html(row, lines=len(found)) if not place else ""
            costs = costs_html(metrics, row, lines=len(found)) if not place else ""
            body += (
                f'<tr class="{role_class(row)}">{first}<td class="place">{escape(line.output)}</td>{cells}{costs}</tr>'
            )
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escape(reading.label_of(name))}</th>' for name in measures)
    table = (
        '<table class="results"><thead><tr><th scope="col">result</th><th scope="col" class="place">output</th>'
        f"{head}{cost_heads_html(metrics)}</tr></thead><tbody>{body}</tbody></table>"
    )
    marked = [LEGEND] if f"{MARK}</b>" in body else []
    notes = [interval_note(metrics), *marked, meaning(metrics), *measured_against(metrics), *reading.notes(metrics)]
    return scrolling(table, "Results") + notes_html(notes)


def domains_html(metrics: Metrics) -> str:
    """A table for each measure, of results and outputs over domains; all but the first are folded."""
    found = []
    for measure in (*PROBABILITY_MEASURES, *VALUE_MEASURES):
        table = _domains(metrics, measure)
        if table:
            found.append((reading.label_of(measure), table))
    return "".join(
        f"<h3>{escape(name)}</h3>{table}"
        if not place
        else f'<details class="more"><summary>{escape(name)}</summary>{table}</details>'
        for place, (name, table) in enumerate(found)
    )


def _domains(metrics: Metrics, measure: str) -> str:
    domains, body = measured_domains(metrics), ""
    for row, result in zip(result_rows(metrics), reading.results(metrics), strict=True):
        told = []
        for output in measured_outputs(metrics):
            cells = [cell_of(metrics, result, MeasureName(output, measure, domain)) for domain in domains]
            if any(cell.value != reading.ABSENT for cell in cells):
                told.append((output, [*cells, cell_of(metrics, result, MeasureName(output, measure))]))
        for place, (output, cells) in enumerate(told):
            first = name_html(row, lines=len(told)) if not place else ""
            named = f'<td class="place">{escape(reading.label_of(output))}</td>'
            body += f'<tr class="{role_class(row)}">{first}{named}{"".join(map(cell_html, cells))}</tr>'
    if not body:
        return ""
    head = "".join(f'<th scope="col">{escape(reading.plain(name))}</th>' for name in (*domains, "all rows"))
    table = (
        '<table class="results"><thead><tr><th scope="col">result</th><th scope="col" class="place">output</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return scrolling(table, f"{reading.label_of(measure)} by domain")
