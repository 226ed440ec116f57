"""Impressions in the report: a line for each output, tables by domain, the same figures everywhere."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from peterrec.metrics.measure_name import PROBABILITY_MEASURES, MeasureName
from peterrec.report import outputs, reading
from peterrec.report.card import card_markdown
from peterrec.report.console import results_table
from peterrec.report.page import report_html

DOMAINS = ("young", "50+ <b>|")
OUTPUTS = ("ctr", "cvr", "ctcvr")


def result(name: str, role: str, start: float, *, domains: tuple[str, ...] = DOMAINS) -> dict[str, Any]:
    """Every figure is another number, so that none can stand in another's place."""
    names = [str(MeasureName("mean", measure)) for measure in ("auc", "log_loss")]
    for output in OUTPUTS:
        for domain in (None, *domains):
            names += [str(MeasureName(output, measure, domain)) for measure in PROBABILITY_MEASURES]
    for domain in (None, *domains):
        names.append(str(MeasureName("dwell", "rmse", domain)))
    figures = {}
    for place, key in enumerate(names):
        value = start + place / 1000
        figures[key] = {"value": value, "low": value - 0.0105, "high": value + 0.0205, "per_seed": [value]}
    return {"name": name, "role": role, "metrics": figures, "trained_parameters": 12_345, "seconds": 3.21}


@pytest.fixture
def metrics() -> dict[str, Any]:
    bins = [
        {"low": 0.01 * i, "high": 0.03 * i + 0.02, "predicted": 0.02 * i + 0.01, "observed": 0.02 * i, "rows": 50}
        for i in range(10)
    ]
    gains = [("ctr/auc", 0.01, 0.03), ("ctr/log_loss", 0.01, 0.03), ("ctr/pcoc", 0.01, 0.03), ("cvr/ne", -0.03, -0.01)]
    return {
        "stage": "finetune",
        "task": "mmoe_esmm",
        "metric": "mean/auc",
        "results": [
            result("mmoe", "model", 0.3),
            result("shared", "model", 0.5),
            result("base rate", "baseline", 0.1),
        ],
        "gains": [
            {"metric": name, "of": "mmoe", "over": "base rate", "value": (low + high) / 2, "low": low, "high": high}
            for name, low, high in gains
        ],
        "bootstrap": {"over": "rows", "replicates": 300},
        "measures": [
            {"of": "ctr", "label": "click", "space": None},
            {"of": "cvr", "label": "conversion", "space": "click == 1"},
        ],
        "calibration": {"ctr": bins, "cvr": bins[:3]},
    }


def one_model(metrics: dict[str, Any]) -> dict[str, Any]:
    return {**metrics, "results": metrics["results"][:1], "gains": []}


def printed(metrics: dict[str, Any], width: int = 100) -> str:
    page = io.StringIO()
    Console(file=page, width=width).print(results_table(metrics, width=width))
    return page.getvalue()


def page_of(metrics: dict[str, Any]) -> str:
    return report_html(metrics, title="t", settings={}, usage=[])


def card_of(metrics: dict[str, Any]) -> str:
    return card_markdown(metrics, title="t", settings={}, usage=[])


def value(metrics: dict[str, Any], name: str, place: int = 0) -> str:
    return reading.number(metrics["results"][place]["metrics"][name]["value"])


def test_a_run_of_classes_has_no_outputs() -> None:
    assert outputs.measured_outputs({"results": [{"metrics": {"accuracy": {"value": 1}, "ndcg@10": {}}}]}) == []
    assert outputs.measured_outputs({}) == []


def test_names_are_told_to_people() -> None:
    assert reading.label_of("ctr/log_loss") == "CTR log loss"
    assert reading.label_of("like/ne/domain=map") == "like NE (map)"
    assert reading.label_of("mean/auc") == "mean AUC"


@pytest.mark.parametrize(
    ("name", "lower"),
    [("ctr/ne", True), ("ctr/log_loss/domain=a", True), ("dwell/rmse", True), ("ctr/auc/domain=log loss", False)],
)
def test_which_way_is_better_is_the_measure_s(name: str, lower: bool) -> None:
    assert reading.lower_is_better(name) == lower


def test_more_pcoc_is_not_better(metrics: dict[str, Any]) -> None:
    shown = {gain["metric"]: reading.shows(gain) for gain in metrics["gains"]}
    assert shown == {"ctr/auc": "better", "ctr/log_loss": "worse", "ctr/pcoc": "differs", "cvr/ne": "better"}
    assert not reading.proven(metrics, "mmoe", "ctr/pcoc")


def test_lines_hold_the_figures_of_their_names(metrics: dict[str, Any]) -> None:
    measures = outputs.columns(metrics)
    assert measures == list(PROBABILITY_MEASURES)
    found = outputs.lines(metrics, metrics["results"][1], measures, by_domain=True)
    names = [(line.output, line.domain) for line in found]
    wanted = [(output, domain) for output in ("CTR", "CVR", "CTCVR", "dwell") for domain in (None, *DOMAINS)]
    assert names == [("mean", None), *wanted]
    for line in found[1:]:
        for measure, cell in zip(measures, line.cells, strict=True):
            name = str(MeasureName(line.output.lower(), measure, line.domain))
            if line.output == "dwell":
                name = str(MeasureName("dwell", "rmse", line.domain))
                wanted_cell = "RMSE " + value(metrics, name, 1) if measure == "auc" else "–"
            else:
                wanted_cell = value(metrics, name, 1)
            assert cell.value == wanted_cell, name


def test_values_alone_have_their_own_column(metrics: dict[str, Any]) -> None:
    kept = {name: each for name, each in metrics["results"][0]["metrics"].items() if name.startswith("dwell")}
    metrics["results"], metrics["metric"] = [{"name": "m", "role": "model", "metrics": kept}], "dwell/rmse"
    assert outputs.columns(metrics) == ["rmse"]
    assert [line.cells[0].value for line in outputs.lines(metrics, metrics["results"][0], ["rmse"])] == [
        value(metrics, "dwell/rmse")
    ]
    assert "RMSE" in printed(metrics)


@pytest.mark.parametrize(("width", "columns"), [(100, 5), (80, 3), (60, 2)])
def test_the_console_table_fits_and_says_what_it_leaves_out(metrics: dict[str, Any], width: int, columns: int) -> None:
    text = printed(metrics, width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    for place in range(3):
        measures = ("auc", "log_loss", "pcoc", "ne", "gauc")
        for output in OUTPUTS:
            figures = [value(metrics, f"{output}/{measure}", place) for measure in measures]
            shown = [re.search(rf"(?<!\[){re.escape(figure)}(?![],])", text) is not None for figure in figures]
            assert shown == [True] * columns + [False] * (5 - columns)
        assert f"RMSE {value(metrics, 'dwell/rmse', place)}" in text
    told = " ".join(text.split())
    assert "test rows, 300 replicates" in told
    assert "CVR: conversion, where click == 1." in told
    left_out = told.partition("report.html too:")[2]
    assert "domains" in left_out
    assert "GAUC mean" in left_out


def test_one_model_has_its_domains_on_the_console(metrics: dict[str, Any]) -> None:
    text = printed(one_model(metrics))
    for output in OUTPUTS:
        for domain in DOMAINS:
            assert value(metrics, f"{output}/auc/domain={domain}") in text
    assert "12,345 trained" in text
    assert "3.2 s" in text


def test_page_and_card_have_all_outputs_and_domains(metrics: dict[str, Any]) -> None:
    page, card = page_of(metrics), card_of(metrics)
    for place in range(3):
        for name in metrics["results"][place]["metrics"]:
            known = MeasureName.parse(name)
            assert known is not None
            assert value(metrics, name, place) in page, name
            if known.measure in outputs.SHOWN:
                assert value(metrics, name, place) in card, name
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("| ")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<b>" not in card
    assert "on a frozen user encoder where one was given" in card
    for text in (page, card):
        assert "1 is right" in text
        assert "test rows, 300 replicates" in text


def test_the_page_nests_and_its_ids_are_its_own(metrics: dict[str, Any]) -> None:
    text = page_of(metrics)
    for tag in ("table", "tr", "td", "th", "details", "section", "figure"):
        assert len(re.findall(rf"<{tag}[\s>]", text)) == text.count(f"</{tag}>"), tag
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "50+ &lt;b&gt;|" in text
    assert "By domain" in text
    main = text[text.index('aria-label="Results"') : text.index("</table>")]
    assert main.count("<tr") == 1 + 3 * 5  # a line for each output and their mean
    assert main.count('rowspan="5"') == 3 * 3  # name, trained parameters, seconds
    assert main.count("proven") == 2  # AUC of ctr, NE of cvr


def test_without_domains_every_measure_stands_in_the_main_table(metrics: dict[str, Any]) -> None:
    metrics["results"] = [result("alone", "model", 0.3, domains=())]
    page = page_of(metrics)
    assert "By domain" not in page
    for name in metrics["results"][0]["metrics"]:
        assert value(metrics, name) in page, name
    assert "By domain" not in card_of(metrics)
    assert "domains" not in printed(metrics)


def test_each_output_has_its_forest_and_its_calibration(metrics: dict[str, Any]) -> None:
    text = page_of(metrics)
    for heading in ("Mean AUC", "CTR AUC", "CVR AUC", "CTCVR AUC"):
        assert f"<h3>{heading}</h3>" in text
    calibration = text[text.index('id="calibration"') :]
    assert calibration.count("<svg") == 2
    assert "500 rows" in calibration
    assert "150 rows" in calibration
    metrics["calibration"] = {"ctr": [{"predicted": None, "observed": float("nan")}], "cvr": None}
    assert 'id="calibration"' not in page_of(metrics)


def test_nothing_absent_is_shown_as_a_number(metrics: dict[str, Any]) -> None:
    metrics["results"][2]["metrics"] = {"ctr/auc": {"value": 0.5, "low": None, "high": float("nan")}}
    metrics["results"][1]["metrics"] = {}
    for key in ("bootstrap", "measures", "calibration"):
        metrics[key] = None
    for text in (page_of(metrics), card_of(metrics), printed(metrics)):
        assert not re.search(r"\b(?:nan|None|inf)\b", text)
        assert "bootstrap over test users)" in text
    assert "not measured" in page_of(metrics)


def test_a_wide_console_does_not_break_names(metrics: dict[str, Any]) -> None:
    metrics["results"][2]["name"] = "logistic_regression"
    assert "logistic_regression" in printed(metrics, width=110)
    assert "GAUC" in printed(metrics, width=110)  # and costs no figure
    assert max(map(len, printed(metrics, width=110).splitlines())) <= 110


def test_large_values_and_their_intervals_stand_on_one_line(metrics: dict[str, Any]) -> None:
    figure = {"value": 33.1383, "low": 28.6949, "high": 137.8392}
    for each in metrics["results"]:
        each["metrics"]["dwell/rmse"] = figure
    text = printed(metrics, width=110)
    assert "RMSE 33.14" in text
    assert "[28.69, 137.8]" in text
