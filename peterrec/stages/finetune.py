"""`peterrec finetune`: an adapter and a head for one task, on the frozen encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peterrec.catalogue import recipe_text
from peterrec.data.domain_logs import BadRows, DomainLogs
from peterrec.evaluation.studies import STUDIES, study_of
from peterrec.evaluation.study import TaskStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.trial import Trial
from peterrec.evaluation.trials import Trials
from peterrec.report.files import write_results
from peterrec.run_folder import RunFolder, output_folder
from peterrec.run_record import FORMAT_VERSION
from peterrec.settings import dump
from peterrec.training.processes import join
from peterrec.training.progress import Mode
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.transfer import Tested


def run(
    task_name: str | Path,
    *,
    encoder: Path | None,
    output: Path,
    data: Path | None = None,
    logs: DomainLogs | None = None,
    adapter_name: str | Path | None = None,
    balancer: str | None = None,
    seeds: Sequence[int] | None = None,
    labels: int | None = None,
    overrides: Sequence[str] = (),
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Trains adapter and head of a task for every seed; returns what metrics.json holds.

    A task with classes reads a prepared folder, `data`, that of the encoder by default, and at most so many `labels`. A
    task that ranks items reads the `logs` of two domains, which stay in the run's folder, joined, as `pairs`. One
    on impressions may take another `balancer` than its own. The model that is saved is that of the first seed. Raises
    SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.

    Launched as several processes, all call this: the main one does all that is said here, the others help it train and
    return nothing, whatever they were given; on other machines they must see `data`, or of a task that ranks items the
    output folder.
    """
    processes = join()
    if not processes.main:
        _, facts = next(processes.jobs())
        follow(facts)
        return {}
    request = StudyRequest(
        task=task_name,
        balancers=() if balancer is None else (balancer,),
        encoder=encoder,
        data=data,
        logs=logs,
        bad_rows=bad_rows,
        memory_limit=memory_limit,
        seeds=seeds,
        labels=labels,
        overrides=overrides,
    )
    kind = study_of(task_name)
    plan = kind.resolve(request)
    contestant = plan.contestant(adapter_name)
    with kind.open(plan, request) as study:
        resolved = _resolved(study, contestant)
        with output_folder(Path(output), stage="finetune", overwrite=overwrite, resume=resolved) as folder:
            return _run(study.kept_in(folder), contestant, folder, resolved=resolved, wandb=wandb, progress=progress)


def follow(job: Mapping[str, Any]) -> None:
    """Helps the main process with its trainings, one a seed; `job` is what that one says of them.

    Raises RefusedError where encoder or data are not there, or other ones than the main process's.
    """
    study, contestant = STUDIES[job["task"]["kind"]].helper(job)
    while (training := join().next_training()) is not None:
        study.help(Trial(contestant, training["settings"]["seed"]))


def _resolved(study: TaskStudy[Any, Any, Any], contestant: Any) -> dict[str, Any]:
    """The settings of the run: what decides whether an interrupted one may go on."""
    plan = study.plan
    return {
        **{name: dump(recipe) for name, recipe in plan.recipes(contestant).items()},
        "training": {key: value for key, value in dump(plan.settings_of(contestant)).items() if key != "seed"},
        "seeds": list(plan.seeds),
        **study.recorded(),
    }


def _run(
    study: TaskStudy[Any, Any, Any],
    contestant: Any,
    folder: RunFolder,
    *,
    resolved: dict[str, Any],
    wandb: TrackerMode,
    progress: Mode,
) -> dict[str, Any]:
    plan = study.plan
    names = plan.names(contestant)
    with tracked_run(wandb, name=" ".join(("finetune", *names)), config=resolved, folder=folder) as tracker:
        trials = Trials(study, folder=folder, tracker=tracker, progress=progress)
        with join().job("finetune", study.job(contestant)):
            fitted: dict[int, Tested] = trials.each_seed(contestant, keep_first=True)
        metrics = {
            "format_version": FORMAT_VERSION,
            "stage": "finetune",
            "task": plan.task.name,
            "seeds": list(plan.seeds),
            **study.measured(contestant, fitted),
            "curves": [{"seed": seed, **record} for seed, each in fitted.items() for record in each.history],
        }
        seed, model = plan.seeds[0], fitted[plan.seeds[0]].model
        assert model is not None
        with folder.files() as temporary:
            facts = study.save(model, contestant, seed=seed, folder=temporary, base_model=str(plan.encoder or ""))
            for name, recipe in plan.recipes(contestant).items():
                (temporary / f"{name}.toml").write_text(recipe_text(recipe), encoding="utf-8")
            pq.write_table(study.predictions(fitted), temporary / "predictions.parquet", compression="zstd")
            study.write_split(temporary, seed=seed)
        write_results(
            folder,
            metrics,
            title=plan.title(contestant),
            settings=resolved,
            usage=study.usage(folder.path),
            summary=study.summary,
        )
        tracker.artifact(
            "-".join(("adapter", *names)),
            type="adapter",
            files=[folder.path / "metrics.json", *sorted(folder.path.glob("*.safetensors"))],
            uses=study.uses(),
        )
        folder.finish(
            inputs={**study.inputs(folder.path), "data_fingerprint": resolved["data"]},
            model=dump(facts),
            wandb_run=tracker.run_id,
        )
    return metrics
