"""`peterrec finetune`: an adapter and a head for one task, on the frozen encoder."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peterrec.catalogue import AdapterRecipe, TaskRecipe, adapter, recipe_text
from peterrec.data.prepared import PreparedLog, column_options
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import RefusedError
from peterrec.evaluation.arena import (
    Arena,
    Plan,
    errors_of,
    open_arena,
    predictions,
    protocol,
    resolve,
    result_of,
)
from peterrec.evaluation.baselines import baselines
from peterrec.evaluation.split_file import write_split
from peterrec.evaluation.trials import Trials
from peterrec.metrics.intervals import paired_gain
from peterrec.report.files import write_results
from peterrec.run_folder import FORMAT_VERSION, output_folder, relative_to_run
from peterrec.settings import dump
from peterrec.task_run import save_task, weights_digest
from peterrec.training.processes import join
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant, Fitted, fit


def run(
    task_name: str | Path,
    *,
    encoder: Path,
    output: Path,
    data: Path | None = None,
    adapter_name: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    labels: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Trains adapter and head of a task for every seed; returns what metrics.json holds.

    The model that is saved is that of the first seed. Raises SettingsError, DataError, RefusedError, ResourceError,
    DivergedError, BusyError.

    Launched as several processes, all call this: the main one does all that is said here, the others help it train and
    return nothing, whatever they were given.
    """
    processes = join()
    if not processes.main:
        _, facts = next(processes.jobs())
        follow(facts)
        return {}
    plan = resolve(task_name, encoder=encoder, data=data, seeds=seeds, labels=labels, overrides=overrides)
    recipe = adapter(plan.adapter if adapter_name is None else adapter_name)
    arena = open_arena(plan)
    resolved = {
        "task": dump(plan.task),
        "adapter": dump(recipe),
        "training": {key: value for key, value in dump(plan.settings(recipe)).items() if key != "seed"},
        "seeds": list(plan.seeds),
        "labels": plan.labels,
        "encoder_revision": encoder_revision(encoder),
        "vocabulary": arena.prepared.vocabulary.fingerprint,
        "data": arena.prepared.fingerprint,
    }
    with (
        output_folder(Path(output), stage="finetune", overwrite=overwrite, resume=resolved) as folder,
        tracked_run(wandb, name=f"finetune {plan.task.name} {recipe.name}", config=resolved, folder=folder) as tracker,
    ):
        contestant = Contestant(recipe.name, recipe)
        trials = Trials(arena, folder=folder, tracker=tracker, progress=progress)
        with processes.job("finetune", _job(plan, recipe, resolved)):
            fitted = trials.each_seed(contestant, keep_first=True)
        metrics = _metrics(recipe.name, fitted, arena)
        seed, model = plan.seeds[0], fitted[plan.seeds[0]].model
        assert model is not None
        facts = trials.facts(contestant, seed=seed)
        with folder.files() as temporary:
            save_task(model, folder=temporary, facts=facts, base_model=str(encoder))
            facts = facts.model_copy(update={"weights": weights_digest(temporary, facts)})
            (temporary / "task.toml").write_text(recipe_text(plan.task), encoding="utf-8")
            (temporary / "adapter.toml").write_text(recipe_text(recipe), encoding="utf-8")
            pq.write_table(predictions(fitted, arena), temporary / "predictions.parquet", compression="zstd")
            write_split(temporary, users=arena.attribute.users.tolist(), split=arena.splits[seed])
        write_results(
            folder,
            metrics,
            title=f"{plan.task.name} with the adapter {recipe.name}",
            settings=resolved,
            usage=_usage(folder.path, arena.prepared),
            summary=arena.prepared.summary,
        )
        tracker.artifact(
            f"adapter-{plan.task.name}-{recipe.name}",
            type="adapter",
            files=[folder.path / "metrics.json", *sorted(folder.path.glob("*.safetensors"))],
            uses=[f"encoder-{facts.encoder_revision}"],
        )
        folder.finish(
            inputs={
                "encoder": relative_to_run(encoder, folder.path),
                "data": relative_to_run(plan.data, folder.path),
                "data_fingerprint": resolved["data"],
            },
            model=dump(facts),
            wandb_run=tracker.run_id,
        )
    return metrics


def follow(job: dict[str, Any]) -> None:
    """Helps the main process with its trainings, one a seed; `job` is what that one says of them.

    Raises RefusedError where the encoder or the prepared folder on this machine is another one.
    """
    recipe = AdapterRecipe.model_validate(job["adapter"])
    plan = Plan(
        task=TaskRecipe.model_validate(job["task"]),
        overrides=tuple(job["overrides"]),
        encoder=Path(job["encoder"]),
        data=Path(job["data"]),
        seeds=tuple(job["seeds"]),
        labels=job["labels"],
        source=job["task"]["name"],
    )
    arena = open_arena(plan)
    if (arena.prepared.fingerprint, encoder_revision(plan.encoder)) != (job["fingerprint"], job["encoder_revision"]):
        raise RefusedError(
            f"{plan.data} or {plan.encoder}: not that of the main process; copy its folders to this machine."
        )
    while (training := join().next_training()) is not None:
        seed = training["settings"]["seed"]
        split = arena.splits[seed]
        fit(
            Contestant(recipe.name, recipe),
            encoder_folder=plan.encoder,
            task=plan.task,
            settings=plan.settings(recipe, seed=seed),
            histories=arena.prepared.sequences("histories"),
            attribute=arena.attribute,
            split=replace(split, test=split.test[:0]),  # the main process predicts
            checkpoints=None,
            metrics_file=None,
            tracker=Tracker(),
            progress=Progress("silent"),
            keep_model=False,
        )


def _job(plan: Plan, recipe: AdapterRecipe, resolved: dict[str, Any]) -> dict[str, Any]:
    """What `follow` needs; recipes may be files that other machines do not have."""
    return {
        "task": dump(plan.task),
        "adapter": dump(recipe),
        "overrides": list(plan.overrides),
        "encoder": str(plan.encoder.absolute()),
        "encoder_revision": resolved["encoder_revision"],
        "data": str(plan.data.absolute()),
        "fingerprint": resolved["data"],
        "seeds": list(plan.seeds),
        "labels": plan.labels,
    }


def _metrics(name: str, fitted: dict[int, Fitted], arena: Arena) -> dict[str, Any]:
    others, baseline_rows = baselines(arena)
    rows = arena.rows({seed: each.probabilities for seed, each in fitted.items()})
    plan = arena.plan
    gains = []
    for over, theirs in baseline_rows.items():
        for metric in dict.fromkeys((plan.task.metric, "accuracy")):
            gain = paired_gain(rows, theirs, metric=metric)
            if gain is not None:
                gains.append({"metric": metric, "of": name, "over": over, **vars(gain)})
    return {
        "format_version": FORMAT_VERSION,
        "stage": "finetune",
        "task": plan.task.name,
        "protocol": protocol(arena),
        "seeds": list(plan.seeds),
        "metric": plan.task.metric,
        "results": [result_of(name, fitted, arena), *others],
        "gains": gains,
        "curves": [{"seed": seed, **record} for seed, each in fitted.items() for record in each.history],
        **errors_of(fitted, arena),
    }


def _usage(path: Path, prepared: PreparedLog) -> list[str]:
    model = shlex.quote(str(path))
    return [
        f"peterrec predict LOG {column_options(prepared)} --model {model} --output predictions.parquet",
        f"peterrec evaluate --model {model}",
    ]
