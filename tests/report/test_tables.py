import io
from typing import Any

import pytest
from rich.console import Console

from peterrec.report import tables
from peterrec.report.confusion import class_recalls, confusion_html
from peterrec.report.console import LONG_LINES, results_table
from peterrec.report.gains import gains_html


def printed(metrics: dict[str, Any], width: int = 100) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(results_table(metrics))
    return page.getvalue()


def widths(metrics: dict[str, Any]) -> int:
    """The columns that the table takes where there is room for more."""
    return max(len(line.rstrip()) for line in printed(metrics, width=300).splitlines())


def with_metrics(metrics: dict[str, Any], names: list[str], systems: int) -> dict[str, Any]:
    figures = {name: {"value": 0.81, "low": 0.79, "high": 0.83} for name in names}
    results = [
        {
            "name": f"a rather long name of system {i}",
            "role": "model",
            "metrics": figures,
            "trained_parameters": 9_999_999,
        }
        for i in range(systems)
    ]
    return {**metrics, "results": results, "gains": [], "metric": names[0]}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("systems", [1, 3, 9])
def test_the_console_table_fits_100_columns(metrics: dict[str, Any], count: int, systems: int) -> None:
    names = [f"ndcg@{k} (history kept)" for k in range(10, 10 + count)]
    chosen = with_metrics(metrics, names, systems)
    assert widths(chosen) <= 100
    text = printed(chosen)
    assert "…" not in text
    shown = count if count <= 4 or count * systems <= LONG_LINES else 4
    assert text.count("[0.790, 0.830]") == systems * shown
    for name in names[shown:]:
        assert name.replace("ndcg", "NDCG") in " ".join(text.split())


def test_a_narrow_terminal_loses_no_figure(metrics: dict[str, Any]) -> None:
    text = " ".join(printed(metrics, width=80).split())
    assert "…" not in text
    for value in ("0.810*", "0.780", "0.620", "131,843", "12.3 M"):
        assert value in text


def test_only_a_proven_gain_is_marked(metrics: dict[str, Any]) -> None:
    rows = tables.result_rows(metrics)
    marked = {(row.name, place) for row in rows for place, cell in enumerate(row.cells) if cell.proven}
    assert marked == {("serial", 0)}  # accuracy; the interval of the ROC AUC's gain holds 0, others have no gain
    assert printed(metrics).count("0.810*") == 1
    assert tables.results_html(metrics).count("proven") == 1
    metrics["gains"][0]["low"] = -0.001
    assert "*" not in printed(metrics)
    assert "proven" not in tables.results_html(metrics)


def test_console_and_page_show_the_same_figures(metrics: dict[str, Any]) -> None:
    text, page = printed(metrics), tables.results_html(metrics)
    for row in tables.result_rows(metrics):
        for shown in (row.name, row.role, row.trained, row.share, row.seconds, row.cells[0].value):
            assert shown in text
            assert shown in page


def test_markup_in_names_is_text(metrics: dict[str, Any]) -> None:
    metrics["results"][2]["name"] = "[red]x[/red]<b>"
    assert "[red]x[/red]<b>" in "".join(printed(metrics).split())
    assert "<b>" not in tables.results_html(metrics).replace("<b>0.810*</b>", "")


@pytest.mark.parametrize("metrics", [{}, {"results": [{"name": "x"}]}, {"results": [{"metrics": {"a": None}}]}])
def test_missing_parts(metrics: dict[str, Any]) -> None:
    assert printed(metrics)
    tables.results_html(metrics)
    assert gains_html(metrics) == ""


def test_the_confusion_matrix_is_shaded_by_row(metrics: dict[str, Any]) -> None:
    page = confusion_html({"labels": ["a", "b", "c"], "matrix": [[3, 1, 0], [0, 0, 0], [1, 1, 2]]})
    shares = [float(part.split('"')[0]) for part in page.split("--share:")[1:]]
    assert shares == [0.75, 0.25, 0, 0, 0, 0, 0.25, 0.25, 0.5]
    assert "75%" in page
    assert page.count('class="hit"') == 3
    assert class_recalls({"labels": ["a", "b"], "matrix": [[3, 1], [0, 0]]}) == [
        ("a", 4, 0.75),
        ("b", 0, None),
    ]
    assert confusion_html({}) == ""
