"""`peterrec compare`: adapters, controls and baselines on the same test, in one table."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.data.domain_logs import BadRows, DomainLogs
from peterrec.evaluation.contestants import CONTROLS as CONTROLS
from peterrec.evaluation.search import RATES, check_rates, effort, notes, refuse_second_rate, search_all
from peterrec.evaluation.search_result import Searched
from peterrec.evaluation.studies import study_of
from peterrec.evaluation.study import TaskStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.tracked_results import track_results
from peterrec.evaluation.trials import Trials
from peterrec.report.files import write_results
from peterrec.run_folder import RunFolder, output_folder
from peterrec.run_record import FORMAT_VERSION
from peterrec.settings import dump
from peterrec.training.progress import Mode
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode

AnyStudy = TaskStudy[Any, Any, Any]
Field = Sequence[tuple[Any, str]]  # contestants of whatever kind with their roles


def run(
    task_name: str | Path,
    *,
    encoder: Path | None,
    output: Path,
    data: Path | None = None,
    logs: DomainLogs | None = None,
    log_words: Sequence[str] = ("--source", "LOG", "--target", "LOG"),
    adapters: Sequence[str] | None = None,
    controls: Sequence[str] | None = None,
    more_tasks: Sequence[str | Path] = (),
    balancers: Sequence[str] = (),
    learning_rates: Sequence[float] | None = RATES,
    seeds: Sequence[int] | None = None,
    labels: int | None = None,
    overrides: Sequence[str] = (),
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Fine-tunes every contestant on the same splits and sets the baselines (and a world's oracle) beside them.

    `data`, `labels` and `logs` are as for `finetune`; `log_words` are the options that name the logs, for the command
    in the README. Each contestant, controls too, tries all `learning_rates` on the first seed and takes the one that is
    best on validation users; None takes the recipes' own. Gains are those of the first adapter over everything else and
    of the others over baselines and full fine-tuning, paired by test user. Without `adapters` the task's own, the head
    alone and full fine-tuning take part; without `controls`, all of them. `more_tasks` are set beside the task
    where it is one on impressions, each with each of the `balancers` where there are some. An interrupted run goes on
    with the same call, and ends the same but for times and memory. Returns what metrics.json holds.

    Raises SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.
    """
    request = StudyRequest(
        task=task_name,
        more_tasks=more_tasks,
        balancers=balancers,
        encoder=encoder,
        data=data,
        logs=logs,
        log_words=log_words,
        bad_rows=bad_rows,
        memory_limit=memory_limit,
        seeds=seeds,
        labels=labels,
        overrides=overrides,
    )
    kind = study_of(task_name)
    plan = kind.resolve(request)
    field = plan.field(adapters, controls)
    if learning_rates is not None:
        check_rates(learning_rates)
        refuse_second_rate(plan.overrides)
    with kind.open(plan, request) as study:
        resolved = _resolved(study, field, learning_rates)
        with output_folder(Path(output), stage="compare", overwrite=overwrite, resume=resolved) as folder:
            return _run(study, field, folder, rates=learning_rates, resolved=resolved, wandb=wandb, progress=progress)


def _resolved(study: AnyStudy, field: Field, rates: Sequence[float] | None) -> dict[str, Any]:
    """The settings of the run: what decides whether an interrupted one may go on."""
    plan = study.plan
    own = {one.name: plan.settings_of(one) for one, _ in field}
    apart = ("learning_rate", "seed")  # these differ between trainings
    shared = dump(own[field[0][0].name])
    return {
        "task": dump(plan.task),
        "contestants": {one.name: plan.described(one) for one, _ in field},
        "training": {key: value for key, value in shared.items() if key not in apart},
        "learning_rates": {name: one.learning_rate for name, one in own.items()} if rates is None else sorted(rates),
        "seeds": list(plan.seeds),
        **study.recorded(),
    }


def _run(
    study: AnyStudy,
    field: Field,
    folder: RunFolder,
    *,
    rates: Sequence[float] | None,
    resolved: dict[str, Any],
    wandb: TrackerMode,
    progress: Mode,
) -> dict[str, Any]:
    plan = study.plan
    with tracked_run(wandb, name=f"compare {plan.task.name}", config=resolved, folder=folder) as tracker:
        trials = Trials(study, folder=folder, tracker=tracker, progress=progress)
        found, lost = search_all(field, trials, rates=rates)
        held = [each for each in field if each[0].name in found]
        metrics = _metrics(study, held, found, rates=rates)
        metrics["notes"] = lost + metrics["notes"]
        with folder.file("predictions.parquet") as temporary:
            pq.write_table(_predictions(study, found), temporary, compression="zstd")
        best = held[0][0]  # the first that did not diverge
        write_results(
            folder,
            metrics,
            title=f"{plan.task.name}: adapters and baselines",
            settings=resolved,
            usage=study.retraining(best, learning_rate=found[best.name].learning_rate),
            summary=study.summary,
        )
        track_results(tracker, metrics)
        tracker.artifact(
            f"comparison-{plan.task.name}",
            type="comparison",
            files=[folder.path / "metrics.json"],
            uses=study.uses(),
        )
        folder.finish(inputs=study.inputs(folder.path), wandb_run=tracker.run_id)
    return metrics


def _metrics(
    study: AnyStudy, field: Field, found: Mapping[str, Searched[Any]], *, rates: Sequence[float] | None
) -> dict[str, Any]:
    plan = study.plan
    searched_by = effort(rates, metric=plan.task.metric, seed=plan.seeds[0])
    metrics = {
        "format_version": FORMAT_VERSION,
        "stage": "compare",
        "task": plan.task.name,
        "seeds": list(plan.seeds),
        "learning_rates": None if rates is None else sorted(rates),
        **study.compared(field, found, effort=searched_by),
        "curves": [
            {"seed": seed, "name": one.name, **record}
            for one, _ in field
            for seed, each in found[one.name].fitted.items()
            for record in each.history
        ],
    }
    metrics["notes"] = notes(metrics["results"][: len(field)], rates)
    return metrics


def _predictions(study: AnyStudy, found: Mapping[str, Searched[Any]]) -> pa.Table:
    tables = []
    for name, searched in found.items():
        table = study.predictions(searched.fitted)
        tables.append(table.append_column("model", pa.array([name] * len(table))))
    return pa.concat_tables(tables, promote_options="default")  # tasks with other outputs have other columns
