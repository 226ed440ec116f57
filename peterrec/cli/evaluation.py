"""`peterrec evaluate`: the figures of a finished run again."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.options import ENCODER, Device
from peterrec.cli.output import show_results
from peterrec.cli.paths import artefact, beside, impression_folder, prepared_folder


def evaluate(
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="Folder of a finished pretrain or finetune run, or its repository.",
            callback=artefact,
        ),
    ] = ENCODER,
    data: options.Data = None,
    encoder: options.OtherEncoder = None,
    continued: options.Continued = False,
    output: options.Output = None,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure a finished run again: an encoder by next item, a task by its labels.

    Writes to `MODEL-evaluation` unless told otherwise. Users that a task was trained on never count. Of impressions
    the run's own test rows are measured, of other `--data` all rows.

    Example: `peterrec evaluate --model runs/gender --data other-data`
    """
    from peterrec.run_record import read_run
    from peterrec.run_weights import kind_of
    from peterrec.stages import evaluate as stage

    if data is not None:
        run = read_run(model)
        shown = run.get("stage") == "finetune" and kind_of(run) == "impressions"
        data = (impression_folder if shown else prepared_folder)(data)
    output = output or beside(model, "-evaluation")
    metrics = stage.run(
        model,
        output=output,
        data=data,
        encoder=encoder,
        continued=continued,
        device=device.value,
        overwrite=overwrite,
    )
    show_results(metrics, output)
