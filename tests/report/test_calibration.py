"""The plot of deciles."""

import re
from typing import Any

import pytest

from peterrec.report.calibration import by_output, calibration_html, deciles_svg


def bins(count: int = 10) -> list[dict[str, Any]]:
    return [
        {"low": 0.008 * i, "high": 0.012 * i + 0.01, "predicted": 0.01 * (i + 1), "observed": 0.01 * i, "rows": 30 + i}
        for i in range(count)
    ]


def test_a_dot_and_an_interval_for_each_bin() -> None:
    svg = deciles_svg(bins(), prefix="a", label="x")
    assert svg.count("<use") >= 10
    tags = [tag for tag in re.findall(r"<path [^>]*>", svg) if "stroke: var(--model)" in tag and "fill: none" in tag]
    drawn = [[float(part) for part in re.findall(r"-?[0-9.]+", tag.split('d="')[1].split('"')[0])] for tag in tags]
    lengths = [one[1] - one[3] for one in drawn if len(one) == 4]  # the line through the dots has more points
    assert len(lengths) == len(drawn) - 1 == 10
    wanted = [one["high"] - one["low"] for one in bins()]
    assert [length / lengths[0] for length in lengths] == pytest.approx([each / wanted[0] for each in wanted], rel=1e-3)
    assert deciles_svg([], prefix="a", label="x") == ""


def test_a_bin_without_an_interval_is_drawn_without() -> None:
    one = {"low": None, "high": float("nan"), "predicted": 0.2, "observed": 0.1, "rows": 3}
    assert deciles_svg([one, {"predicted": None, "observed": 0.3}], prefix="a", label="x").count("<use") > 0


def test_both_kinds_of_calibration_are_told_apart() -> None:
    classes = {"confidence": [0.5, 0.9], "accuracy": [0.5, 0.8], "count": [3, 4]}
    outputs = {"ctr": bins(), "cvr": bins(2)}
    assert not by_output({"calibration": classes})
    assert by_output({"calibration": outputs})
    assert calibration_html({"calibration": classes}).count("<svg") == 1
    page = calibration_html({"calibration": outputs})
    assert page.count("<svg") == 2
    assert "<h3>CTR</h3>" in page
    assert "of 345 rows" in page
    assert calibration_html({}) == calibration_html({"calibration": {}}) == ""


def test_a_model_that_predicts_nothing_but_zero_is_drawn() -> None:
    assert deciles_svg([{"low": 0.0, "high": 0.0, "predicted": 0.0, "observed": 0.0}], prefix="a", label="x")
