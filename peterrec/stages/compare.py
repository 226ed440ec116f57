"""`peterrec compare`: adapters, controls and baselines on the same users, in one table."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.catalogue import given
from peterrec.encoders.loading import encoder_revision
from peterrec.evaluation import ceiling as oracle
from peterrec.evaluation.arena import Arena, Plan, errors_of, open_arena, predictions, protocol, resolve, result_of
from peterrec.evaluation.baselines import baselines
from peterrec.evaluation.contestants import CONTROLS, RESERVED, Field, contestants, named
from peterrec.evaluation.gains import gains_of, reference_of
from peterrec.evaluation.search import RATES, Searched, check_rates, effort, notes, refuse_second_rate, search_all
from peterrec.evaluation.tracked_results import track_results
from peterrec.evaluation.trials import Trials
from peterrec.report.files import write_results
from peterrec.run_folder import FORMAT_VERSION, output_folder, relative_to_run
from peterrec.settings import dump
from peterrec.training.progress import Mode
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.transfer import Fitted


def run(
    task_name: str | Path,
    *,
    encoder: Path,
    output: Path,
    data: Path | None = None,
    adapters: Sequence[str] | None = None,
    controls: Sequence[str] = tuple(CONTROLS),
    learning_rates: Sequence[float] | None = RATES,
    seeds: Sequence[int] | None = None,
    labels: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Fine-tunes every contestant on the same splits and sets the baselines (and a world's oracle) beside them.

    Each contestant, controls too, tries all `learning_rates` on the first seed and takes the one that is best on
    validation users; None takes the recipes' own. Gains are those of the first adapter over everything else and of the
    others over baselines and full fine-tuning, paired by test user. Without `adapters` the task's own, the head alone
    and full fine-tuning take part. An interrupted run goes on with the same call, and
    ends the same but for times and memory. Returns what metrics.json holds.

    Raises SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.
    """
    plan = resolve(task_name, encoder=encoder, data=data, seeds=seeds, labels=labels, overrides=overrides)
    adapters = named(adapters, own=plan.adapter)
    field = contestants(adapters, controls)
    if learning_rates is not None:
        check_rates(learning_rates)
        refuse_second_rate(plan.overrides)
    arena = open_arena(plan)
    resolved = _resolved(field, arena, learning_rates)
    with (
        output_folder(Path(output), stage="compare", overwrite=overwrite, resume=resolved) as folder,
        tracked_run(wandb, name=f"compare {plan.task.name}", config=resolved, folder=folder) as tracker,
    ):
        trials = Trials(arena, folder=folder, tracker=tracker, progress=progress)
        found, lost = search_all(field, trials, rates=learning_rates)
        metrics = _metrics([each for each in field if each[0].name in found], found, arena, learning_rates)
        metrics["notes"] = lost + metrics["notes"]
        best = metrics["results"][0]["name"]  # the first that did not diverge
        with folder.file("predictions.parquet") as temporary:
            pq.write_table(_predictions(found, arena), temporary, compression="zstd")
        write_results(
            folder,
            metrics,
            title=f"{plan.task.name}: adapters and baselines",
            settings=resolved,
            usage=_usage(plan, dict(zip([one.name for one, _ in field], adapters, strict=False)), found[best], best),
            summary=arena.prepared.summary,
        )
        track_results(tracker, metrics)
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
    return metrics


def _resolved(field: Field, arena: Arena, rates: Sequence[float] | None) -> dict[str, Any]:
    """The settings of the run: what decides whether an interrupted one may go on."""
    plan = arena.plan
    own = {one.name: plan.settings(one.adapter) for one, _ in field}
    apart = ("learning_rate", "seed")  # these differ between trainings
    shared = dump(own[field[0][0].name])
    return {
        "task": dump(plan.task),
        "contestants": {one.name: given(one.adapter) for one, _ in field},
        "training": {key: value for key, value in shared.items() if key not in apart},
        "learning_rates": {name: one.learning_rate for name, one in own.items()} if rates is None else sorted(rates),
        "seeds": list(plan.seeds),
        "labels": plan.labels,
        "encoder_revision": encoder_revision(plan.encoder),
        "vocabulary": arena.prepared.vocabulary.fingerprint,
        "data": arena.prepared.fingerprint,
    }


def _metrics(
    field: Field, found: dict[str, Searched[Fitted]], arena: Arena, rates: Sequence[float] | None
) -> dict[str, Any]:
    plan, first = arena.plan, field[0][0].name
    results = []
    for contestant, role in field:
        searched = found[contestant.name]
        results.append(
            {
                **result_of(contestant.name, searched.fitted, arena, role=role),
                "learning_rate": searched.learning_rate,
                "search": searched.tried,
                "search_seconds": searched.seconds,
            }
        )
    said = notes(results, rates)
    rows = {
        name: arena.rows({seed: one.probabilities for seed, one in searched.fitted.items()})
        for name, searched in found.items()
    }
    for more, more_rows in (baselines(arena), oracle.ceiling(arena)):
        results += more
        rows |= more_rows
    models = [one.name for one, role in field if role == "model"]
    searched_by = effort(rates, metric=plan.task.metric, seed=plan.seeds[0])
    return {
        "format_version": FORMAT_VERSION,
        "stage": "compare",
        "task": plan.task.name,
        "protocol": f"{protocol(arena)} {searched_by} Confusion matrix and calibration are those of {first}.",
        "seeds": list(plan.seeds),
        "metric": plan.task.metric,
        "learning_rates": None if rates is None else sorted(rates),
        "reference": reference_of(models),
        "notes": said,
        "results": results,
        "gains": gains_of(models, rows, baselines=RESERVED, metrics=dict.fromkeys((plan.task.metric, "accuracy"))),
        "curves": [
            {"seed": seed, "name": name, **record}
            for name, searched in found.items()
            for seed, one in searched.fitted.items()
            for record in one.history
        ],
        **errors_of(found[first].fitted, arena),
    }


def _predictions(found: dict[str, Searched[Fitted]], arena: Arena) -> pa.Table:
    tables = []
    for name, searched in found.items():
        table = predictions(searched.fitted, arena)
        tables.append(table.append_column("model", pa.array([name] * len(table))))
    return pa.concat_tables(tables)


def _usage(plan: Plan, given: Mapping[str, str], searched: Searched[Fitted], name: str) -> list[str]:
    """The command that trains the contestant `name` as here; `given`: the adapters as they were named."""
    options = {
        "--task": plan.source,
        "--adapter": given[name],
        "--encoder": str(plan.encoder),
        "--data": str(plan.data),
        "--seeds": str(len(plan.seeds)) if plan.seeds == tuple(range(len(plan.seeds))) else None,
        "--labels": None if plan.labels is None else str(plan.labels),
    }
    command = ["peterrec", "finetune"]
    command += [word for option, value in options.items() if value is not None for word in (option, value)]
    for setting in (*plan.overrides, f"learning_rate={searched.learning_rate!r}"):
        command += ["--set", setting]
    return [shlex.join(command)]
