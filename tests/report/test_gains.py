from typing import Any

from peterrec.report.gains import MANY, gains_html, telling


def with_models(count: int, *, reference: str | None) -> dict[str, Any]:
    names = [f"m{i}" for i in range(count)] + ["full"]
    pairs = [("m0", name) for name in (*names[1:], "bag")]
    pairs += [(name, over) for name in names[1:] for over in ("full", "bag") if over != name and reference]
    gains = [
        {"metric": metric, "of": of, "over": over, "value": 0.1, "low": 0.05, "high": 0.2}
        for metric in ("roc_auc", "accuracy")
        for of, over in pairs
    ]
    figures = {"roc_auc": {"value": 0.8}}
    results = [{"name": name, "role": "model", "metrics": figures} for name in names]
    return {"metric": "roc_auc", "reference": reference, "results": results, "gains": gains}


def test_few_gains_are_all_shown_and_drawn() -> None:
    metrics = with_models(2, reference="full")
    assert "<details" not in gains_html(metrics)
    assert gains_html(metrics).count("<tr>") == 1 + len(metrics["gains"])
    assert telling(metrics) == [gain for gain in metrics["gains"] if gain["metric"] == "roc_auc"]


def test_of_many_the_first_models_are_shown_and_the_others_can_be_unfolded() -> None:
    metrics = with_models(20, reference="full")
    shown, folded = gains_html(metrics).split("<details")
    assert shown.count("<tr>") == 1 + 21  # 19 models, full, the baseline
    assert shown.count(">m0 <span") == 21
    assert folded.count("<tr>") == 1 + len(metrics["gains"]) - 21


def test_of_many_those_over_full_fine_tuning_are_drawn() -> None:
    drawn = telling(with_models(20, reference="full"))
    assert [gain["of"] for gain in drawn] == [f"m{i}" for i in range(20)]
    assert {(gain["over"], gain["metric"]) for gain in drawn} == {("full", "roc_auc")}
    drawn = telling(with_models(MANY + 1, reference=None))
    assert {(gain["of"], gain["metric"]) for gain in drawn} == {("m0", "roc_auc")}
