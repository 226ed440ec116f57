"""`peterrec pretrain`, `finetune`, `compare` and `evaluate`: what ends in a table of results."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.domain_input import DomainOptions, open_domains, refuse_domains, refuse_for_ranking
from peterrec.cli.log_input import LogOptions, prepared_world
from peterrec.cli.options import ENCODER, RUNS, BadRows, Device, TimeUnit, Wandb
from peterrec.cli.output import show_results
from peterrec.cli.paths import beside, encoder_folder, named, prepared_folder


class Purpose(enum.StrEnum):
    next_items = "next_items"
    attributes = "attributes"


def pretrain(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="Prepared folder. Default: the embedded world.", show_default=False, callback=named
        ),
    ] = None,
    output: options.Output = None,
    purpose: Annotated[
        Purpose,
        typer.Option(
            "--for",
            help="Start from the settings that won there: next_items, self-attention by next item, for recommendations "
            "and what hangs on the order; attributes, item embeddings pooled over whole histories, for gender, age and "
            "the like.",
        ),
    ] = Purpose.next_items,
    parent: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Go on from this encoder, with its settings unless told otherwise, on DATA prepared with "
            "--vocabulary-of RUN.",
            callback=named,
        ),
    ] = None,
    new_items_only: Annotated[
        bool,
        typer.Option(
            "--new-items-only",
            help="With --from: train the rows of new items alone. Adapters of RUN then go on working unchanged.",
        ),
    ] = False,
    config: options.Config = None,
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Pretrain a user encoder on item sequences, without labels, or go on from one with a new day's log.

    `--for` chooses between two sets of settings; --config and --set change them: `encoder.kind` is the encoder, the
    weights under `objective` say what it learns.
    `peterrec show settings pretrain` lists all settings. An interrupted run goes on with the same command, bit for bit.
    Without DATA, the embedded world is used. Writes to `runs/encoder` unless told otherwise, with `--from RUN` to
    `RUN-continued`.

    Example: `peterrec pretrain data -o runs/encoder --set encoder.dropout=0.3 --set objective.contrast=0.5`
    """
    from peterrec.errors import SettingsError
    from peterrec.settings import load_settings
    from peterrec.stages import pretrain as stage
    from peterrec.training.continuation import settings_layer
    from peterrec.training.purposes import purpose_layer

    if parent is None:
        layers, output = [purpose_layer(purpose.value)], output or ENCODER
    else:
        if purpose is not Purpose.next_items:
            raise SettingsError(f"--for {purpose.value} is for a new encoder; --from goes on with the settings of RUN.")
        layers, output = [settings_layer(encoder_folder(parent))], output or beside(parent, "-continued")
        if data is None:
            raise SettingsError("--from: name the data to go on with, prepared with --vocabulary-of.")
    settings = load_settings(stage.PretrainSettings, file=config, overrides=set or (), layers=layers)
    metrics = stage.run(
        prepared_world() if data is None else prepared_folder(data),
        output=output,
        settings=settings,
        parent=parent,
        new_items_only=new_items_only,
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    show_results(metrics, output)


def finetune(
    task: options.Task = "gender",
    encoder: options.Encoder = ENCODER,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", "-a", help="An adapter (`peterrec list adapters`) or a .toml. [default: the task's]"),
    ] = None,
    data: options.Data = None,
    output: options.Output = None,
    seeds: options.Seeds = None,
    labels: options.Labels = None,
    source: options.SourceLog = None,
    target: options.TargetLog = None,
    items: options.DomainItems = None,
    target_items: options.TargetItems = None,
    user: options.DomainUser = None,
    item: options.DomainItem = None,
    time: options.DomainTime = None,
    time_unit: options.DomainUnit = TimeUnit.auto,
    target_user: options.TargetUser = None,
    target_item: options.TargetItem = None,
    target_time: options.TargetTime = None,
    format: options.DomainFormat = None,
    bad_rows: options.DomainBad = BadRows.fail,
    memory_limit: options.DomainMemory = "2GB",
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Train an adapter and a head for one task on the frozen encoder, beside its baselines.

    Writes to `runs/TASK` unless told otherwise. Settings for `--set` are those of `peterrec show settings finetune`.
    A task that ranks items (`cold_start`) takes the logs of two domains in the place of `--data`:
    `peterrec finetune --task cold_start --source clicks.csv --target orders.csv --user customer --time at`

    Example: `peterrec finetune --task gender --adapter serial --seeds 3 --set learning_rate=5e-4`
    """
    from peterrec.catalogue import RankingTask, any_task
    from peterrec.stages import finetune as stage

    output = output or RUNS / Path(task).stem
    recipe = any_task(task)
    given = LogOptions(user, item, time, time_unit.value, format=format)
    of_target = LogOptions(target_user, target_item, target_time)
    domains = DomainOptions(source, target, given, of_target, items, target_items)
    if isinstance(recipe, RankingTask):
        from peterrec.stages import finetune_ranking

        refuse_for_ranking(recipe, data=data, labels=labels)
        folder = encoder_folder(encoder)
        with open_domains(domains, recipe) as logs:
            metrics = finetune_ranking.run(
                task,
                encoder=folder,
                output=output,
                logs=logs,
                adapter_name=adapter,
                seeds=None if seeds is None else range(seeds),
                overrides=set or (),
                bad_rows=bad_rows.value,
                memory_limit=memory_limit,
                overwrite=overwrite,
                wandb=wandb.value,
                progress="silent" if quiet else "auto",
            )
        show_results(metrics, output)
        return
    refuse_domains(domains, recipe.name)
    metrics = stage.run(
        task,
        encoder=encoder_folder(encoder),
        output=output,
        data=None if data is None else prepared_folder(data),
        adapter_name=adapter,
        seeds=None if seeds is None else range(seeds),
        labels=labels,
        overrides=set or (),
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    show_results(metrics, output)


def compare(
    task: options.Task = "gender",
    encoder: options.Encoder = ENCODER,
    adapters: Annotated[
        str | None,
        typer.Option(
            help="Adapters, separated by commas; the first is compared with all others. all: every other one. "
            "[default: the task's,none,full]"
        ),
    ] = None,
    controls: Annotated[
        str,
        typer.Option(
            help="scratch (random weights, all trained), random (the first adapter that freezes, on random weights)."
        ),
    ] = "scratch,random",
    learning_rates: Annotated[
        str,
        typer.Option(
            help="Learning rates that each contestant tries on the first seed; the best on validation users is kept. "
            "`recipe`: each recipe's own, without a search.",
        ),
    ] = "5e-4,2e-3,8e-3",
    data: options.Data = None,
    output: options.Output = None,
    seeds: options.Seeds = None,
    labels: options.Labels = None,
    source: options.SourceLog = None,
    target: options.TargetLog = None,
    items: options.DomainItems = None,
    target_items: options.TargetItems = None,
    user: options.DomainUser = None,
    item: options.DomainItem = None,
    time: options.DomainTime = None,
    time_unit: options.DomainUnit = TimeUnit.auto,
    target_user: options.TargetUser = None,
    target_item: options.TargetItem = None,
    target_time: options.TargetTime = None,
    format: options.DomainFormat = None,
    bad_rows: options.DomainBad = BadRows.fail,
    memory_limit: options.DomainMemory = "2GB",
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Set adapters, controls and baselines side by side on the same users, with intervals, paired gains and costs.

    An interrupted comparison goes on with the same command; trainings that are finished are not repeated. On the
    embedded world the oracle's ceiling stands beside them. Writes to `runs/compare-TASK` unless told otherwise. A task
    that ranks items (`cold_start`) takes `--source` and `--target` in the place of `--data`.

    Example: `peterrec compare --task gender --adapters serial,none --labels 300 --seeds 3`
    """
    from peterrec.catalogue import RankingTask, any_task
    from peterrec.evaluation.search import parse_rates
    from peterrec.stages import compare as stage

    output = output or RUNS / f"compare-{Path(task).stem}"
    recipe = any_task(task)
    given = LogOptions(user, item, time, time_unit.value, format=format)
    of_target = LogOptions(target_user, target_item, target_time)
    domains = DomainOptions(source, target, given, of_target, items, target_items)
    if isinstance(recipe, RankingTask):
        from peterrec.stages import compare_ranking

        refuse_for_ranking(recipe, data=data, labels=labels)
        folder = encoder_folder(encoder)
        with open_domains(domains, recipe) as logs:
            metrics = compare_ranking.run(
                task,
                encoder=folder,
                output=output,
                logs=logs,
                log_words=domains.words(),
                adapters=None if adapters is None else _names(adapters),
                controls=_names(controls),
                learning_rates=parse_rates(learning_rates),
                seeds=None if seeds is None else range(seeds),
                overrides=set or (),
                bad_rows=bad_rows.value,
                memory_limit=memory_limit,
                overwrite=overwrite,
                wandb=wandb.value,
                progress="silent" if quiet else "auto",
            )
        show_results(metrics, output)
        return
    refuse_domains(domains, recipe.name)
    metrics = stage.run(
        task,
        encoder=encoder_folder(encoder),
        output=output,
        data=None if data is None else prepared_folder(data),
        adapters=None if adapters is None else _names(adapters),
        controls=_names(controls),
        learning_rates=parse_rates(learning_rates),
        seeds=None if seeds is None else range(seeds),
        labels=labels,
        overrides=set or (),
        overwrite=overwrite,
        wandb=wandb.value,
        progress="silent" if quiet else "auto",
    )
    show_results(metrics, output)


def evaluate(
    model: Annotated[
        Path, typer.Option("--model", "-m", help="Folder of a finished pretrain or finetune run.", callback=named)
    ] = ENCODER,
    data: options.Data = None,
    encoder: options.OtherEncoder = None,
    continued: options.Continued = False,
    output: options.Output = None,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure a finished run again: an encoder by next item, a task by its labels.

    Writes to `MODEL-evaluation` unless told otherwise. Users that a task was trained on never count.

    Example: `peterrec evaluate --model runs/gender --data other-data`
    """
    from peterrec.stages import evaluate as stage

    output = output or beside(model, "-evaluation")
    metrics = stage.run(
        model,
        output=output,
        data=None if data is None else prepared_folder(data),
        encoder=encoder,
        continued=continued,
        device=device.value,
        overwrite=overwrite,
    )
    show_results(metrics, output)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
