"""The model card: README.md with the metadata that the Hub reads, and how to load what lies beside it."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from peterrec.errors import RefusedError
from peterrec.report import reading
from peterrec.report.card import card_markdown

UNSTATED = "not stated"
_LOADERS = {
    "encoder": ("load_encoder", "encoder"),
    "classification": ("load_task", "task"),
    "ranking": ("load_recommender", "recommender"),
    "impressions": ("load_impressions", "model"),
}
_WHAT = {
    "encoder": "User encoder",
    "classification": "Task of users",
    "ranking": "Recommendation",
    "impressions": "Task of impressions",
}
_PIPELINE = {"ranking": "other", "encoder": "feature-extraction"}


def card(
    metrics: dict[str, Any],
    *,
    kind: str,
    name: str,
    settings: dict[str, Any],
    base_model: str | None,
    licence: str | None,
    dataset: str,
    counts: dict[str, int],
) -> str:
    """README.md of a published folder: metadata, then the run's own card with how to load it from `name`.

    `settings` are those that are published; `counts` say how much it was trained on.
    """
    data = ModelCardData(
        base_model=base_model,
        library_name="peterrec",
        license=None if licence is None else licence,
        pipeline_tag=_PIPELINE.get(kind),
        tags=["peterrec", "recommender-systems", f"peterrec-{kind}"],
        model_name=name,
        eval_results=_results(metrics, kind=kind, dataset=dataset) or None,
    )
    text = card_markdown(metrics, title=f"{_WHAT[kind]}: {name}", settings=settings, usage=usage(kind, name))
    told = [f"Licence: {licence or UNSTATED}.", _trained_on(counts, dataset)]
    head, _, rest = text.partition("\n\n")
    return f"---\n{data.to_yaml()}\n---\n\n{head}\n\n{' '.join(part for part in told if part)}\n\n{rest}"


def usage(kind: str, name: str) -> list[str]:
    """Three lines of Python that load a published folder, and the command that uses it."""
    loader, result = _LOADERS[kind]
    command = {
        "encoder": f"peterrec finetune --task gender --encoder {name}",
        "ranking": f"peterrec recommend LOG --model {name}",
    }.get(kind, f"peterrec predict LOG --model {name}")
    return [
        "pip install peterrec",
        command,
        "# in Python",
        "import peterrec",
        f'folder = peterrec.fetch("{name}")',
        f"{result} = peterrec.{loader}(folder)",
    ]


def _trained_on(counts: dict[str, int], dataset: str) -> str:
    parts = [f"{number:,} {what}" for what, number in counts.items()]
    return f"Trained on {dataset}: {', '.join(parts)}." if parts else f"Trained on {dataset}."


def _results(metrics: dict[str, Any], *, kind: str, dataset: str) -> list[EvalResult]:
    """The main figure of the model, and of the baselines beside it, each with its interval in its name."""
    metric = reading.main_metric(metrics)
    found = []
    for result in reading.results(metrics):
        figure = result.get("metrics", {}).get(metric)
        if metric is None or not isinstance(figure, dict):
            continue
        role = result.get("role", "model")
        label = f"{reading.label_of(metric)} of {result['name']}" + ("" if role == "model" else f" ({role})")
        interval = f", 95 % interval {figure['low']:.4f} to {figure['high']:.4f}" if "low" in figure else ""
        found.append(
            EvalResult(
                task_type="other",
                task_name=_WHAT[kind],
                dataset_type="private",
                dataset_name=dataset,
                metric_type=metric,
                metric_name=f"{label}{interval}",
                metric_value=round(float(figure["value"]), 6),
            )
        )
    return found


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a run, empty where there is none. Raises RefusedError where it is damaged."""
    path = folder / "metrics.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as problem:
        raise RefusedError(f"{path}: damaged ({problem}); make the run again.") from None
