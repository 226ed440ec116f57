"""`peterrec pretrain`: a user encoder from item sequences."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.log_input import prepared_world
from peterrec.cli.options import ENCODER, Wandb
from peterrec.cli.output import show_results
from peterrec.cli.paths import artefact, beside, encoder_folder, named, prepared_folder


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
            callback=artefact,
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
