"""`peterrec finetune` for tasks that rank items: an adapter and a head for a target catalogue."""

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from peterrec.catalogue import AdapterRecipe, RankingTask, adapter, recipe_text
from peterrec.data.cross_domain import PairedLogs, open_pairs
from peterrec.data.domain_logs import BadRows, DomainLogs, OneLog
from peterrec.encoders.loading import encoder_revision
from peterrec.errors import DataError, RefusedError
from peterrec.evaluation.ranking_arena import (
    RankingArena,
    RankingPlan,
    open_ranking_arena,
    pair_logs,
    resolve_ranking,
)
from peterrec.evaluation.ranking_results import entrant_of, ranked_places, ranking_metrics_file
from peterrec.evaluation.ranking_trials import RankingTrials
from peterrec.evaluation.split_file import write_split
from peterrec.ranking_transfer import fit_ranking
from peterrec.report.files import write_results
from peterrec.report.pairs_summary import pairs_summary
from peterrec.run_folder import RunFolder, output_folder, relative_to_run
from peterrec.run_weights import weights_digest
from peterrec.settings import dump
from peterrec.training.processes import join
from peterrec.training.progress import Mode, Progress
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode
from peterrec.training.tracking import Tracker
from peterrec.transfer import Contestant

PAIRS = "pairs"


def run(
    task_name: str | Path,
    *,
    encoder: Path,
    output: Path,
    logs: DomainLogs,
    adapter_name: str | Path | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Trains adapter and head for every seed on the users of both domains; returns what metrics.json holds.

    The joined logs stay in the run's folder, as `pairs`, for `peterrec evaluate`. The model that is saved is that of
    the first seed. Launched as several processes, all call this, as for `finetune.run`; those on other machines must
    see the output folder. Raises SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.
    """
    processes = join()
    if not processes.main:
        _, facts = next(processes.jobs())
        follow(facts)
        return {}
    plan = resolve_ranking(task_name, encoder=encoder, logs=logs, seeds=seeds, overrides=overrides)
    recipe = adapter(plan.task.adapter if adapter_name is None else adapter_name)
    with tempfile.TemporaryDirectory(prefix="peterrec-") as work:
        pairs = pair_logs(plan, logs, folder=Path(work) / PAIRS, bad_rows=bad_rows, memory_limit=memory_limit)
        resolved = {
            "task": dump(plan.task),
            "adapter": dump(recipe),
            "training": {key: value for key, value in dump(plan.settings(recipe)).items() if key != "seed"},
            "seeds": list(plan.seeds),
            "encoder_revision": encoder_revision(encoder),
            "vocabulary": pairs.source_vocabulary.fingerprint,
            "data": pairs.fingerprint,
        }
        open_ranking_arena(plan, pairs)  # what does not fit is refused before anything is written
        with output_folder(Path(output), stage="finetune", overwrite=overwrite, resume=resolved) as folder:
            arena = open_ranking_arena(plan, _kept(pairs, folder))
            return _train(arena, recipe, folder, logs=logs, resolved=resolved, wandb=wandb, progress=progress)


def _kept(pairs: PairedLogs, folder: RunFolder) -> PairedLogs:
    """The paired log in the run's folder: moved there, unless an interrupted run has left it."""
    place = folder.path / PAIRS
    if not (folder.resumed and place.is_dir()):
        with folder.folder(PAIRS) as temporary:
            for entry in pairs.folder.iterdir():
                shutil.move(entry, temporary / entry.name)
    return open_pairs(place)


def _train(
    arena: RankingArena,
    recipe: AdapterRecipe,
    folder: RunFolder,
    *,
    logs: DomainLogs,
    resolved: dict[str, Any],
    wandb: TrackerMode,
    progress: Mode,
) -> dict[str, Any]:
    plan, pairs = arena.plan, arena.pairs
    with tracked_run(wandb, name=f"finetune {plan.task.name} {recipe.name}", config=resolved, folder=folder) as tracker:
        contestant = Contestant(recipe.name, recipe)
        trials = RankingTrials(arena, folder=folder, tracker=tracker, progress=progress)
        with join().job("finetune_ranking", _job(arena, recipe, resolved)):
            fitted = trials.each_seed(contestant, keep_first=True)
        curves = [{"seed": seed, **record} for seed, each in fitted.items() for record in each.history]
        metrics = ranking_metrics_file(
            arena, [entrant_of(recipe.name, "model", fitted)], stage="finetune", curves=curves
        )
        metrics["reference"] = None  # one model has nothing to be measured against but baselines
        model = fitted[plan.seeds[0]].model
        assert model is not None
        facts = trials.facts(contestant)
        with folder.files() as temporary:
            trials.save(model, contestant, folder=temporary, base_model=str(plan.encoder))
            facts = facts.model_copy(update={"weights": weights_digest(temporary, facts)})
            (temporary / "task.toml").write_text(recipe_text(plan.task), encoding="utf-8")
            (temporary / "adapter.toml").write_text(recipe_text(recipe), encoding="utf-8")
            pq.write_table(ranked_places(fitted, arena), temporary / "predictions.parquet", compression="zstd")
            write_split(temporary, users=pairs.users.array.to_pylist(), split=arena.cold.splits[plan.seeds[0]])
        write_results(
            folder,
            metrics,
            title=f"{plan.task.name} with the adapter {recipe.name}",
            settings=resolved,
            usage=_usage(folder.path, logs, mixed=arena.cold.mixed),
            summary=pairs_summary(pairs.summary),
        )
        tracker.artifact(
            f"adapter-{plan.task.name}-{recipe.name}",
            type="adapter",
            files=[folder.path / "metrics.json", *sorted(folder.path.glob("*.safetensors"))],
            uses=[f"encoder-{facts.encoder_revision}"],
        )
        folder.finish(
            inputs={
                "encoder": relative_to_run(plan.encoder, folder.path),
                "data": PAIRS,
                "data_fingerprint": pairs.fingerprint,
            },
            model=dump(facts),
            wandb_run=tracker.run_id,
        )
    return metrics


def follow(job: dict[str, Any]) -> None:
    """Helps the main process with its trainings, one a seed; `job` is what that one says of them.

    Raises RefusedError where encoder or paired log are not there, or other ones than the main process's.
    """
    recipe = AdapterRecipe.model_validate(job["adapter"])
    plan = RankingPlan(
        task=RankingTask.model_validate(job["task"]),
        overrides=tuple(job["overrides"]),
        encoder=Path(job["encoder"]),
        seeds=tuple(job["seeds"]),
        source=job["task"]["name"],
    )
    try:
        pairs = open_pairs(Path(job["pairs"]))
    except DataError as problem:
        raise RefusedError(f"{problem} Name an --output that every machine of the launch can read.") from None
    if (pairs.fingerprint, encoder_revision(plan.encoder)) != (job["fingerprint"], job["encoder_revision"]):
        raise RefusedError(
            f"{job['pairs']} or {plan.encoder}: not that of the main process; copy its folders to this machine."
        )
    arena = open_ranking_arena(plan, pairs)
    while (training := join().next_training()) is not None:
        seed = training["settings"]["seed"]
        fit_ranking(
            Contestant(recipe.name, recipe),
            encoder_folder=plan.encoder,
            task=plan.task,
            settings=plan.settings(recipe, seed=seed),
            pairs=pairs,
            split=arena.cold.splits[seed],
            features=arena.features,
            checkpoints=None,
            tracker=Tracker(),
            progress=Progress("silent"),
        )


def _job(arena: RankingArena, recipe: AdapterRecipe, resolved: dict[str, Any]) -> dict[str, Any]:
    """What `follow` needs; recipes may be files that other machines do not have."""
    plan = arena.plan
    return {
        "task": dump(plan.task),
        "adapter": dump(recipe),
        "overrides": list(plan.overrides),
        "encoder": str(plan.encoder.absolute()),
        "encoder_revision": resolved["encoder_revision"],
        "pairs": str(arena.pairs.folder.absolute()),
        "fingerprint": resolved["data"],
        "seeds": list(plan.seeds),
    }


def _usage(path: Path, logs: DomainLogs, *, mixed: bool) -> list[str]:
    columns = logs.columns if isinstance(logs, OneLog) else logs.source_columns
    named = [("--user", columns.user), ("--item", columns.item), ("--time", columns.time)]
    if mixed and not isinstance(logs, OneLog):
        of_target = (logs.target_columns.user, logs.target_columns.item, logs.target_columns.time)
        named.append(("--target", "TARGET_LOG"))
        named += [
            (option.replace("--", "--target-"), column)
            for (option, same), column in zip(named[:3], of_target, strict=True)
            if column != same
        ]
    options = " ".join(f"{option} {shlex.quote(column)}" for option, column in named if column)
    model = shlex.quote(str(path))
    return [
        f"peterrec recommend LOG {options} --model {model} --output recommended.parquet",
        f"peterrec evaluate --model {model}",
    ]
