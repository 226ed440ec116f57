"""`peterrec finetune` and `peterrec compare`: adapters on a frozen encoder, for one task."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.option_group import grouped
from peterrec.cli.options import ENCODER, RUNS
from peterrec.cli.output import show_results
from peterrec.cli.study_options import StudyOptions


@grouped
def finetune(
    task: options.Task = "gender",
    encoder: options.Encoder = ENCODER,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help="An adapter (`peterrec list adapters`) or a .toml. [default: the task's]"),
    ] = None,
    balancer: Annotated[
        str | None, typer.Option(help="Of impressions: how the losses become one update. [default: the task's]")
    ] = None,
    *,
    given: StudyOptions,
) -> None:
    """Train an adapter and a head for one task on the frozen encoder, beside its baselines.

    Writes to `runs/TASK` unless told otherwise. Settings for `--set` are those of `peterrec show settings finetune`.
    A task that ranks items (`cold_start`) takes the logs of two domains in the place of `--data`:
    `peterrec finetune --task cold_start --source clicks.csv --target orders.csv --user customer --time at`
    A task on impressions (`mmoe_esmm`) takes what `peterrec prepare --label` has prepared, with or without an encoder:
    `peterrec finetune --task mmoe_esmm --data shown --encoder runs/encoder`

    Example: `peterrec finetune --task gender --adapter serial --seeds 3 --set learning_rate=5e-4`
    """
    from peterrec.errors import SettingsError
    from peterrec.stages import finetune as stage

    if len(_names(task)) > 1 and not Path(task).exists():
        raise SettingsError(f"--task {task}: `peterrec finetune` trains one task; several are for `peterrec compare`.")
    output = given.output or RUNS / Path(task).stem
    with given.opened(task, encoder=encoder) as found:
        metrics = stage.run(
            task,
            encoder=found.encoder,
            output=output,
            data=found.data,
            logs=found.logs,
            adapter_name=adapter,
            balancer=balancer,
            seeds=given.seed_numbers,
            labels=given.labels,
            overrides=given.set or (),
            bad_rows=given.bad_rows.value,
            memory_limit=given.memory_limit,
            overwrite=given.overwrite,
            wandb=given.wandb.value,
            progress=given.progress,
        )
    show_results(metrics, output)


@grouped
def compare(
    task: options.Task = "gender",
    encoder: options.Encoder = ENCODER,
    adapters: Annotated[
        str | None,
        typer.Option(
            help="Adapters, separated by commas; the first is compared with all others. all: every other one. "
            "[default: the task's,none,full; of impressions the task's]"
        ),
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            help="scratch (random weights, all trained), random (the first adapter that freezes, on random weights); "
            "of impressions no_encoder, random. [default: scratch,random; of impressions no_encoder]"
        ),
    ] = None,
    balancers: Annotated[
        str | None,
        typer.Option(help="Of impressions: each task with each of these balancers. [default: the tasks' own]"),
    ] = None,
    learning_rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates that each contestant tries on the first seed; the best on validation users is kept. "
            "`recipe`: each recipe's own, without a search. [default: 5e-4,2e-3,8e-3; of impressions recipe]",
        ),
    ] = None,
    *,
    given: StudyOptions,
) -> None:
    """Set adapters, controls and baselines side by side on the same users, with intervals, paired gains and costs.

    An interrupted comparison goes on with the same command; trainings that are finished are not repeated. On the
    embedded world the oracle's ceiling stands beside them. Writes to `runs/compare-TASK` unless told otherwise. A task
    that ranks items (`cold_start`) takes `--source` and `--target` in the place of `--data`. Several tasks on
    impressions, separated by commas, are compared with each other: `--task shared_bottom,mmoe,esmm`.

    Example: `peterrec compare --task gender --adapters serial,none --labels 300 --seeds 3`
    """
    from peterrec.evaluation.search import parse_rates
    from peterrec.stages import compare as stage

    task, *more = _names(task) or [task]
    output = given.output or RUNS / f"compare-{Path(task).stem}"
    with given.opened(task, encoder=encoder) as found:
        metrics = stage.run(
            task,
            encoder=found.encoder,
            output=output,
            data=found.data,
            logs=found.logs,
            log_words=given.domains.words(),
            adapters=None if adapters is None else _names(adapters),
            controls=None if controls is None else _names(controls),
            more_tasks=more,
            balancers=() if balancers is None else _names(balancers),
            learning_rates=found.rates if learning_rates is None else parse_rates(learning_rates),
            seeds=given.seed_numbers,
            labels=given.labels,
            overrides=given.set or (),
            bad_rows=given.bad_rows.value,
            memory_limit=given.memory_limit,
            overwrite=given.overwrite,
            wandb=given.wandb.value,
            progress=given.progress,
        )
    show_results(metrics, output)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
