"""`peterrec compare` for tasks that rank items: adapters, controls and baselines on the same test events."""

import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.catalogue import given
from peterrec.data.domain_logs import BadRows, DomainLogs
from peterrec.encoders.loading import encoder_revision
from peterrec.evaluation.contestants import CONTROLS, Field, contestants, named
from peterrec.evaluation.cross_baselines import NAMES
from peterrec.evaluation.ranking_arena import RankingArena, RankingPlan, open_ranking_arena, pair_logs, resolve_ranking
from peterrec.evaluation.ranking_results import entrant_of, ranked_places, ranking_metrics_file
from peterrec.evaluation.ranking_trials import RankingFitted, RankingTrials
from peterrec.evaluation.search import RATES, Searched, check_rates, effort, notes, refuse_second_rate, search_all
from peterrec.evaluation.tracked_results import track_results
from peterrec.report.files import write_results
from peterrec.report.pairs_summary import pairs_summary
from peterrec.run_folder import output_folder, relative_to_run
from peterrec.settings import dump
from peterrec.training.progress import Mode
from peterrec.training.tracked_run import tracked_run
from peterrec.training.tracking import Mode as TrackerMode


def run(
    task_name: str | Path,
    *,
    encoder: Path,
    output: Path,
    logs: DomainLogs,
    log_words: Sequence[str] = ("--source", "LOG", "--target", "LOG"),
    adapters: Sequence[str] | None = None,
    controls: Sequence[str] = tuple(CONTROLS),
    learning_rates: Sequence[float] | None = RATES,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    bad_rows: BadRows = "fail",
    memory_limit: str = "2GB",
    overwrite: bool = False,
    wandb: TrackerMode = "off",
    progress: Mode = "auto",
) -> dict[str, Any]:
    """Fine-tunes every contestant on the same splits and sets the baselines beside them; as `compare.run`.

    `log_words` are the options that name the logs, for the command in the README. Returns what metrics.json holds.
    Raises SettingsError, DataError, RefusedError, ResourceError, DivergedError, BusyError.
    """
    plan = resolve_ranking(task_name, encoder=encoder, logs=logs, seeds=seeds, overrides=overrides)
    adapters = named(adapters, own=plan.task.adapter)
    field = contestants(adapters, controls, reserved=NAMES)
    if learning_rates is not None:
        check_rates(learning_rates)
        refuse_second_rate(plan.overrides)
    with tempfile.TemporaryDirectory(prefix="peterrec-") as work:
        pairs = pair_logs(plan, logs, folder=Path(work) / "pairs", bad_rows=bad_rows, memory_limit=memory_limit)
        arena = open_ranking_arena(plan, pairs)
        resolved = _resolved(field, arena, learning_rates)
        with (
            output_folder(Path(output), stage="compare", overwrite=overwrite, resume=resolved) as folder,
            tracked_run(wandb, name=f"compare {plan.task.name}", config=resolved, folder=folder) as tracker,
        ):
            trials = RankingTrials(arena, folder=folder, tracker=tracker, progress=progress)
            found, lost = search_all(field, trials, rates=learning_rates)
            held = [each for each in field if each[0].name in found]
            metrics = _metrics(held, found, arena, learning_rates)
            metrics["notes"] = lost + metrics["notes"]
            best = metrics["results"][0]["name"]  # the first that did not diverge
            with folder.file("predictions.parquet") as temporary:
                pq.write_table(_predictions(found, arena), temporary, compression="zstd")
            spelled = dict(zip([one.name for one, _ in field], adapters, strict=False))
            write_results(
                folder,
                metrics,
                title=f"{plan.task.name}: adapters and baselines",
                settings=resolved,
                usage=_usage(plan, spelled[best], found[best].learning_rate, log_words=log_words),
                summary=pairs_summary(pairs.summary),
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
                    "data_fingerprint": pairs.fingerprint,
                },
                wandb_run=tracker.run_id,
            )
    return metrics


def _resolved(field: Field, arena: RankingArena, rates: Sequence[float] | None) -> dict[str, Any]:
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
        "encoder_revision": encoder_revision(plan.encoder),
        "vocabulary": arena.pairs.source_vocabulary.fingerprint,
        "data": arena.pairs.fingerprint,
    }


def _metrics(
    field: Field,
    found: Mapping[str, Searched[RankingFitted]],
    arena: RankingArena,
    rates: Sequence[float] | None,
) -> dict[str, Any]:
    plan = arena.plan
    entrants, curves = [], []
    for one, role in field:
        searched = found[one.name]
        entrants.append(
            entrant_of(
                one.name,
                role,
                searched.fitted,
                learning_rate=searched.learning_rate,
                search=searched.tried,
                search_seconds=searched.seconds,
            )
        )
        curves += [
            {"seed": seed, "name": one.name, **record}
            for seed, each in searched.fitted.items()
            for record in each.history
        ]
    metrics = ranking_metrics_file(arena, entrants, stage="compare", curves=curves)
    metrics["protocol"] += f" {effort(rates, metric=plan.task.metric, seed=plan.seeds[0])}"
    metrics["learning_rates"] = None if rates is None else sorted(rates)
    metrics["notes"] = notes(metrics["results"][: len(entrants)], rates)
    return metrics


def _predictions(found: Mapping[str, Searched[RankingFitted]], arena: RankingArena) -> pa.Table:
    tables = []
    for name, searched in found.items():
        table = ranked_places(searched.fitted, arena)
        tables.append(table.append_column("model", pa.array([name] * len(table))))
    return pa.concat_tables(tables)


def _usage(plan: RankingPlan, adapter: str, learning_rate: float, *, log_words: Sequence[str]) -> list[str]:
    """The command that trains the contestant `adapter` as here."""
    command = ["peterrec", "finetune", "--task", plan.source, "--adapter", adapter, "--encoder", str(plan.encoder)]
    command += log_words
    if plan.seeds == tuple(range(len(plan.seeds))):
        command += ["--seeds", str(len(plan.seeds))]
    for setting in (*plan.overrides, f"learning_rate={learning_rate!r}"):
        command += ["--set", setting]
    return [shlex.join(command)]
