"""`peterrec pretrain`, `finetune`, `compare` and `evaluate`: what ends in a table of results."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.log_input import prepared_world
from peterrec.cli.options import ENCODER, RUNS, Device, Wandb
from peterrec.cli.output import show_results
from peterrec.cli.paths import beside, encoder_folder, named, prepared_folder


def pretrain(
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="Prepared folder. Default: the embedded world.", show_default=False, callback=named
        ),
    ] = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Pretrain a user encoder on item sequences, without labels.

    `encoder.kind` chooses the encoder; the weights under `objective` say what it learns, by default the next item.
    `peterrec show settings pretrain` lists all settings. An interrupted run goes on with the same command, bit for bit.
    Without DATA, the embedded world is used. Writes to `runs/encoder` unless told otherwise.

    Example: `peterrec pretrain data -o runs/encoder --set encoder.hidden_size=128 --set objective.contrast=0.5`
    """
    from peterrec.settings import load_settings
    from peterrec.stages import pretrain as stage

    settings = load_settings(stage.PretrainSettings, file=config, overrides=set or ())
    output = output or ENCODER
    metrics = stage.run(
        prepared_world() if data is None else prepared_folder(data),
        output=output,
        settings=settings,
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
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Train an adapter and a head for one task on the frozen encoder, beside its baselines.

    Writes to `runs/TASK` unless told otherwise. Settings for `--set` are those of `peterrec show settings finetune`.

    Example: `peterrec finetune --task gender --adapter serial --seeds 3 --set learning_rate=5e-4`
    """
    from peterrec.stages import finetune as stage

    output = output or RUNS / Path(task).stem
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
        str,
        typer.Option(
            help="Adapters, separated by commas; the first is compared with all others. all: every other one."
        ),
    ] = "serial,none,full",
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
    set: options.Set = None,
    wandb: options.Track = Wandb.off,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Set adapters, controls and baselines side by side on the same users, with intervals, paired gains and costs.

    An interrupted comparison goes on with the same command; trainings that are finished are not repeated. On the
    embedded world the oracle's ceiling stands beside them. Writes to `runs/compare-TASK` unless told otherwise.

    Example: `peterrec compare --task gender --adapters serial,none --labels 300 --seeds 3`
    """
    from peterrec.evaluation.search import parse_rates
    from peterrec.stages import compare as stage

    output = output or RUNS / f"compare-{Path(task).stem}"
    metrics = stage.run(
        task,
        encoder=encoder_folder(encoder),
        output=output,
        data=None if data is None else prepared_folder(data),
        adapters=_names(adapters),
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
        device=device.value,
        overwrite=overwrite,
    )
    show_results(metrics, output)


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]
