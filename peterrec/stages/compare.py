"""`peterrec compare`: adapters, controls and baselines on the same users, in one table."""

import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from peterrec.catalogue import adapter
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import SettingsError, did_you_mean
from peterrec.evaluation.arena import (
    Arena,
    baselines,
    errors_of,
    open_arena,
    predictions,
    protocol,
    resolve,
    result_of,
    run_contestant,
)
from peterrec.evaluation.world import world_of
from peterrec.metrics.intervals import ClassificationRows, metric_intervals, paired_gain
from peterrec.report.files import write_results
from peterrec.run_folder import FORMAT_VERSION, output_folder, relative_to_run
from peterrec.settings import dump
from peterrec.training.progress import Mode
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.training.tracking import open_tracker
from peterrec.transfer import Contestant, Fitted

ADAPTERS = ("serial", "none", "full")
# What a user may ask: is it the pretraining (scratch), or just the architecture (random)?
CONTROLS = {
    "scratch": "the same network trained from random weights",
    "random": "the first adapter on a frozen encoder of random weights",
}
RESERVED = ("bag_of_items", "lsa", "majority", "oracle")


def contestants(adapters: Sequence[str], controls: Sequence[str]) -> list[tuple[Contestant, str]]:
    """The contestants with their roles; raises SettingsError for an unknown name."""
    if not adapters:
        raise SettingsError("--adapters names none; give at least one, such as serial.")
    chosen = [adapter(name) for name in adapters]
    found = [(Contestant(recipe.name, recipe), "model") for recipe in chosen]
    for name in controls:
        if name not in CONTROLS:
            raise SettingsError(f"There is no control {name!r}. {did_you_mean(name, CONTROLS)}")
        if name == "scratch":
            # full fine-tuning is slow because its weights are worth keeping; from scratch the task's own rate holds
            recipe = adapter("full").model_copy(update={"learning_rate": None})
            found.append((Contestant(name, recipe, pretrained=False), "control"))
        else:
            found.append((Contestant(f"random+{chosen[0].name}", chosen[0], pretrained=False), "control"))
    names = [one.name for one, _ in found]
    for name in names:
        if names.count(name) > 1 or name in RESERVED:
            taken = "twice" if names.count(name) > 1 else "by a baseline"
            raise SettingsError(f"The name {name!r} would be taken {taken} in the table; rename that adapter's file.")
    return found


def run(
    task_name: str | Path,
    *,
    encoder: Path,
    output: Path,
    data: Path | None = None,
    adapters: Sequence[str] = ADAPTERS,
    controls: Sequence[str] = tuple(CONTROLS),
    seeds: Sequence[int] | None = None,
    labels: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Fine-tunes every contestant on the same splits and sets the baselines (and a world's oracle) beside them.

    Gains are those of the first adapter over everything else, paired by test user. Returns what metrics.json holds.
    Raises SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.
    """
    field = contestants(adapters, controls)
    plan = resolve(task_name, encoder=encoder, data=data, seeds=seeds, labels=labels, overrides=overrides)
    arena = open_arena(plan)
    resolved = {
        "task": dump(plan.task),
        "contestants": {one.name: dump(one.adapter) for one, _ in field},
        "training": {one.name: dump(plan.settings(one.adapter)) for one, _ in field},
        "seeds": list(plan.seeds),
        "labels": plan.labels,
        "encoder_revision": encoder_revision(encoder),
        "vocabulary": arena.prepared.vocabulary.fingerprint,
        "data": arena.prepared.fingerprint,
    }
    with output_folder(Path(output), stage="compare", overwrite=overwrite, resume=resolved) as folder:
        tracker = open_tracker(
            wandb,
            project="peterrec",
            name=f"compare {plan.task.name}",
            config=resolved,
            folder=folder.working_folder("wandb").parent if wandb != "off" else None,
        )
        try:
            fitted: dict[str, dict[int, Fitted]] = {}
            results, rows = [], {}
            after = 0
            for contestant, role in field:
                each, after = run_contestant(
                    contestant, arena, folder=folder, tracker=tracker, progress=progress, after=after
                )
                fitted[contestant.name] = each
                rows[contestant.name] = arena.rows({seed: one.probabilities for seed, one in each.items()})
                results.append(result_of(contestant.name, each, arena, role=role))
            for more, more_rows in (baselines(arena, latent=True), _ceiling(arena)):
                results += more
                rows |= more_rows
            first = field[0][0].name
            metrics = {
                "format_version": FORMAT_VERSION,
                "stage": "compare",
                "task": plan.task.name,
                "protocol": f"{protocol(arena)} Confusion matrix and calibration are those of {first}.",
                "seeds": list(plan.seeds),
                "metric": plan.task.metric,
                "results": results,
                "gains": _gains(
                    [one.name for one, role in field if role == "model"],
                    rows,
                    metrics=dict.fromkeys((plan.task.metric, "accuracy")),
                ),
                "curves": [
                    {"seed": seed, "name": name, **record}
                    for name, each in fitted.items()
                    for seed, one in each.items()
                    for record in one.history
                ],
                **errors_of(fitted[first], arena),
            }
            with folder.file("predictions.parquet") as temporary:
                tables = [
                    predictions(each, arena).append_column("model", pa.array([name] * _count(each)))
                    for name, each in fitted.items()
                ]
                pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")
            write_results(
                folder,
                metrics,
                title=f"{plan.task.name}: adapters and baselines",
                settings=resolved,
                usage=[
                    f"peterrec finetune --task {plan.task.name} --adapter {first} --encoder {shlex.quote(str(encoder))}"
                ],
                summary=arena.prepared.summary,
            )
            _track(tracker, metrics)
            tracker.artifact(
                f"comparison-{plan.task.name}",
                type="comparison",
                files=[folder.path / "metrics.json"],
                uses=[f"encoder-{resolved['encoder_revision']}"],
            )
            folder.finish(
                inputs={
                    "encoder": relative_to_run(encoder, folder.path),
                    "data": relative_to_run(plan.data, folder.path),
                },
                wandb_run=tracker.run_id,
            )
        finally:
            tracker.finish(timeout=60)
    return metrics


def _count(fitted: dict[int, Fitted]) -> int:
    return sum(len(one.probabilities) for one in fitted.values())


def _gains(
    models: Sequence[str], rows: dict[str, list[ClassificationRows]], *, metrics: Iterable[str]
) -> list[dict[str, Any]]:
    """The first model over everything else, the other models over the baselines."""
    gains = []
    for metric in metrics:
        for model in models:
            for name, theirs in rows.items():
                if name == model or (model != models[0] and name not in RESERVED):
                    continue
                gain = paired_gain(rows[model], theirs, metric=metric)
                if gain is not None:
                    gains.append({"metric": metric, "of": model, "over": name, **vars(gain)})
    return gains


def _ceiling(arena: Arena) -> tuple[list[dict[str, Any]], dict[str, list[ClassificationRows]]]:
    """The oracle of the embedded world: the exact posterior given the history; nothing for real logs."""
    world = world_of(arena.prepared)
    if world is None or arena.plan.task.column not in world.parameters.classes:
        return [], {}
    started = time.perf_counter()
    histories, attribute = arena.prepared.sequences("histories"), arena.attribute
    order = [str(name) for name in world.classes(arena.plan.task.column)]
    columns = [order.index(name) for name in attribute.classes]
    tested = np.unique(np.concatenate([attribute.rows[split.test] for split in arena.splits.values()]))
    items = [arena.prepared.vocabulary.ids(histories.items_of(int(row))) for row in tested]
    posterior = world.oracle_attribute(arena.plan.task.column, items)[:, columns]
    found: dict[int, NDArray[np.float64]] = {
        seed: posterior[np.searchsorted(tested, attribute.rows[split.test])] for seed, split in arena.splits.items()
    }
    rows = arena.rows(found)
    seconds = time.perf_counter() - started
    return [{"name": "oracle", "role": "ceiling", "metrics": metric_intervals(rows), "seconds": seconds}], {
        "oracle": rows
    }


def _track(tracker: Any, metrics: dict[str, Any]) -> None:
    names = sorted({name for result in metrics["results"] for name in result["metrics"]})
    table = []
    for result in metrics["results"]:
        row: list[Any] = [
            result["name"],
            result["role"],
            result.get("trained_parameters"),
            result.get("seconds"),
        ]
        for name in names:
            figure = result["metrics"].get(name, {})
            row += [figure.get("value"), figure.get("low"), figure.get("high")]
        table.append(row)
    columns = ["name", "role", "trained_parameters", "seconds"]
    columns += [f"{name}{suffix}" for name in names for suffix in ("", " low", " high")]
    tracker.table("comparison", columns=columns, rows=table)
