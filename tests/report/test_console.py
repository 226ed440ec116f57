import io
from typing import Any

import pytest
from rich.console import Console

from peterrec.report import tables
from peterrec.report.card import card_markdown
from peterrec.report.console import results_table
from peterrec.report.page import report_html


@pytest.fixture
def compared(metrics: dict[str, Any]) -> dict[str, Any]:
    """A comparison of twenty adapters with all that each one cost."""
    one = next(result for result in metrics["results"] if result["role"] == "model")
    cost = {"adapter_bytes": 823_456, "peak_memory_bytes": 1_234_567_890, "search_seconds": 12_345.6}
    names = ["parallel_published", *(f"adapter_{i}" for i in range(18)), "full"]
    models = [{**one, **cost, "name": name, "learning_rate": 2e-3, "trained_parameters": 9_999_999} for name in names]
    gains = [
        {"metric": metric, "of": name, "over": "full", "value": 0.012, "low": -0.011, "high": 0.022}
        for metric in ("roc_auc", "accuracy")
        for name in names[:-1]
    ]
    others = [result for result in metrics["results"] if result["role"] != "model"]
    notes = ["Chosen at the edge of the grid: 0.002."]
    return {
        **metrics,
        "stage": "compare",
        "results": [*models, *others],
        "gains": gains,
        "reference": "full",
        "notes": notes,
    }


def printed(metrics: dict[str, Any], width: int) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(results_table(metrics, width=width))
    return page.getvalue()


@pytest.mark.parametrize(("width", "metrics_shown"), [(120, 2), (100, 2), (80, 1), (74, 1)])
def test_costs_and_gains_fit_and_nothing_is_cut(compared: dict[str, Any], width: int, metrics_shown: int) -> None:
    text = printed(compared, width)
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= min(width, 100)
    assert "…" not in text
    assert text.count("[0.790, 0.825]") == 20  # accuracy of each model
    assert text.count("[0.780, 0.815]") == 20 * (metrics_shown - 1)
    assert text.count("+0.012") == 19
    assert text.count("[-0.011, +0.022]") == 19
    assert text.count("reference") == 1
    for shown in ("9,999,999", "823 kB", "1.2 GB", "12,346"):
        assert text.count(shown) >= 20, shown
    assert text.count("0.002") == (21 if width >= 80 else 1)  # the note names it too
    assert ("learning rate" in " ".join(text.split())) == (width < 80)
    assert "edge of the grid" in text


def test_the_order_given_is_kept(compared: dict[str, Any]) -> None:
    names = [row.name for row in tables.result_rows(compared) if row.role == "model"]
    assert names == ["parallel_published", *(f"adapter_{i}" for i in range(18)), "full"]
    text = printed(compared, 100)
    assert [text.index(name) for name in names[:-1]] == sorted(text.index(name) for name in names[:-1])


def test_a_run_without_costs_has_no_columns_for_them(metrics: dict[str, Any]) -> None:
    for text in (printed(metrics, 100), tables.results_html(metrics)):
        for absent in ("over full", "rate", "file", "memory", "search"):
            assert absent not in text
    metrics["results"][2]["adapter_bytes"] = 1000
    assert tables.cost_columns(metrics) == ["trained", "file"]
    assert "1.0 kB" in printed(metrics, 100)


def test_page_and_card_show_them_too(compared: dict[str, Any]) -> None:
    page = report_html(compared, title="t", settings={}, usage=[])
    card = card_markdown(compared, title="t", settings={}, usage=[])
    for text in (page, card):
        for shown in ("over full", "learning rate", "0.002", "823 kB", "1.2 GB", "+0.012", "edge of the grid"):
            assert shown in text
    assert "Accuracy against trained parameters" in page
    lines = [line for line in card.splitlines() if line.startswith("| ")]
    table = lines[: next(i for i, line in enumerate(lines) if "oracle" in line) + 1]
    assert len({line.count(" | ") for line in table}) == 1
