"""Metrics as a run writes them, with known figures, for the tests of the report."""

from typing import Any

import pytest

NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "roc_auc", "log_loss", "calibration_error")


def figure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.02, "high": value + 0.015, "per_seed": [value]}


def result(name: str, role: str, value: float, names: tuple[str, ...] = NAMES, **facts: Any) -> dict[str, Any]:
    figures = {metric: figure(value - 0.01 * place) for place, metric in enumerate(names)}
    cost = {"trained_parameters": 131_843, "trained_share": 0.0213, "seconds": 12.34, **facts}
    return {"name": name, "role": role, "metrics": figures, **cost}


@pytest.fixture
def metrics() -> dict[str, Any]:
    curves = [
        {
            "seed": seed,
            "epoch": epoch,
            "step": 10 * epoch,
            "loss": 1.0 / epoch,
            "validation": {"accuracy": 0.7 + 0.01 * epoch - 0.002 * epoch**2, "loss": 0.5},
        }
        for seed in (0, 1)
        for epoch in (1, 2, 3, 4)
    ]
    return {
        "format_version": 1,
        "stage": "finetune",
        "task": "gender",
        "protocol": "By user, 70/3/27.",
        "seeds": [0, 1],
        "metric": "accuracy",
        "results": [
            result("majority", "baseline", 0.62, trained_parameters=0, trained_share=None, seconds=None),
            result("bag of items", "baseline", 0.78),
            result("serial", "model", 0.81),
            result("scratch", "control", 0.70, trained_parameters=12_345_678, trained_share=1.0),
            result("oracle", "ceiling", 0.86),
        ],
        "gains": [
            {
                "metric": "accuracy",
                "of": "serial",
                "over": "bag of items",
                "value": 0.03,
                "low": 0.01,
                "high": 0.05,
            },
            {
                "metric": "accuracy",
                "of": "serial",
                "over": "majority",
                "value": 0.19,
                "low": 0.1,
                "high": 0.2,
            },
            {
                "metric": "roc_auc",
                "of": "serial",
                "over": "bag of items",
                "value": 0.0,
                "low": -0.1,
                "high": 0.1,
            },
        ],
        "curves": curves,
        "confusion": {"labels": ["F", "M"], "matrix": [[30, 10], [5, 55]]},
        "calibration": {"confidence": [0.55, 0.9], "accuracy": [0.5, 0.95], "count": [40, 60]},
        "histograms": {
            "lengths": {"edges": [1, 2, 4, 8], "counts": [5, 60, 35]},
            "labels": {"F": 40, "M": 60},
        },
    }
