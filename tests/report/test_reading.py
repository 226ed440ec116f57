import math
from typing import Any

import numpy as np
import pytest

from peterrec.report import reading


def one_model(*, low: float, high: float, metric: str = "accuracy") -> dict[str, Any]:
    names = (("bag of items", "baseline", 0.80), ("majority", "baseline", 0.50), ("serial", "model", 0.81))
    results = [
        {
            "name": name,
            "role": role,
            "metrics": {metric: {"value": v, "low": v - 0.02, "high": v + 0.02}},
        }
        for name, role, v in names
    ]
    gain = {"metric": metric, "of": "serial", "over": "bag of items", "value": 0.01, "low": low, "high": high}
    return {"metric": metric, "results": results, "gains": [gain]}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.01, 0.03, "no difference shown (gain +0.010 [-0.010, +0.030])."),
        (0.0, 0.03, "no difference shown (gain +0.010 [+0.000, +0.030])."),
        (0.005, 0.03, "serial is better (gain +0.010 [+0.005, +0.030])."),
        (-0.03, -0.005, "serial is worse (gain +0.010 [-0.030, -0.005])."),
    ],
)
def test_the_verdict_says_what_the_interval_allows(low: float, high: float, said: str) -> None:
    text = reading.verdict(one_model(low=low, high=high))
    before = "serial reaches accuracy 0.810 [0.790, 0.830]; bag of items, the best baseline, 0.800 [0.780, 0.820]"
    assert text == f"{before}: {said}"


def test_without_a_paired_interval_nothing_is_claimed() -> None:
    metrics = one_model(low=math.nan, high=math.nan)
    assert "better" not in reading.verdict(metrics).replace("best", "")
    assert reading.shows(metrics["gains"][0]) == "no interval"
    metrics["gains"] = []
    assert "nothing is claimed" in reading.verdict(metrics)
    assert not reading.proven(metrics, "serial", "accuracy")


def test_a_gain_over_a_weaker_baseline_proves_nothing() -> None:
    metrics = one_model(low=-0.01, high=0.03)
    weaker = {"metric": "accuracy", "of": "serial", "over": "majority", "value": 0.3, "low": 0.2, "high": 0.4}
    metrics["gains"].insert(0, weaker)
    assert not reading.proven(metrics, "serial", "accuracy")
    assert "no difference shown" in reading.verdict(metrics)


def test_small_losses_are_good() -> None:
    metrics = one_model(low=0.005, high=0.03, metric="log_loss")
    baseline = reading.best_baseline(metrics, "log_loss")
    assert baseline is not None
    assert baseline["name"] == "majority"  # 0.50 is the smallest loss
    assert reading.shows({"metric": "log_loss", "low": 0.01, "high": 0.02}) == "worse"
    assert reading.shows({"metric": "log_loss", "low": -0.02, "high": -0.01}) == "better"
    assert not reading.lower_is_better("ndcg@10 (history kept)")


def test_several_models_are_told_best_first_and_not_all(metrics: dict[str, Any]) -> None:
    for place in range(6):
        figures = {"accuracy": {"value": 0.5 + 0.01 * place, "low": None, "high": None}}
        metrics["results"].append({"name": f"m{place}", "role": "model", "metrics": figures})
    text = reading.verdict(metrics)
    named = [text.index(name) for name in ("bag of items", "serial", "m5", "m4", "m3")]
    assert named == sorted(named)
    assert "m2" not in text
    assert "3 more in the table" in text
    assert text.endswith("The ceiling, oracle, is 0.860 [0.840, 0.875].")


@pytest.mark.parametrize("metrics", [{}, {"results": []}, {"results": None, "gains": None}, {"metric": "accuracy"}])
def test_a_run_without_results_has_a_verdict(metrics: dict[str, Any]) -> None:
    assert reading.verdict(metrics) == "No model was measured in this run."


def test_numbers() -> None:
    assert reading.number(0.81049) == "0.810"
    assert reading.number(-0.0001) == "0.000"
    assert reading.number(np.float32(0.5)) == "0.500"
    assert reading.number(math.inf) == reading.number(None) == reading.number(True) == "–"
    assert reading.interval({"low": 0.1, "high": None}) == ""
    assert reading.percent(0.5) == "50%"
    assert reading.percent(10 / 3 / 100) == "3.333%"
    assert reading.parameters(9_999_999) == "9,999,999"
    assert reading.parameters(12_345_678) == "12.3 M"
    assert reading.label_of("roc_auc") == "ROC AUC"
    assert reading.label_of("ndcg@10 (history kept)") == "NDCG@10 (history kept)"
    assert reading.plain("a\n\x00b\x1b[31m") == "a b [31m"


def test_results_are_grouped_by_role(metrics: dict[str, Any]) -> None:
    names = [result["name"] for result in reading.results(metrics)]
    assert names == ["serial", "scratch", "majority", "bag of items", "oracle"]
