"""`peterrec fuse`: one score from several predictions."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import options
from peterrec.cli.options import RUNS, Device
from peterrec.cli.output import show_results
from peterrec.cli.paths import beside, named

SOURCE = RUNS / "mmoe_esmm"


class Form(enum.StrEnum):
    product = "product"
    sum = "sum"


def fuse(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="[PREDICTIONS]",
            help="Folder of a finetune run on impressions, or a Parquet file with columns p_… and labels.",
            callback=named,
        ),
    ] = SOURCE,
    output: options.Output = None,
    form: Annotated[
        Form | None,
        typer.Option(
            help="product: of powers of the predictions; sum: weighted. [default: product, or that of --weights]"
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Predictions to fuse, separated by commas. [default: of a run the heads that are probabilities, of a "
            "table all]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=NUMBER,…|FILE",
            help="Weights by hand, such as ctr=1,cvr=0.5, or the weights.json of an earlier fusion: nothing is tuned.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="LABEL/MEASURE[=WEIGHT]",
            help="What the score shall be good at: auc, gauc, gauc_mean, gauc_positives or ndcg@K against a 0/1 label. "
            "Repeatable; the best weighted mean is kept. [default: GAUC of click and conversion alike]",
        ),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="How many weights are tried.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Draws the trials, and the users of a table that tune.")] = 0,
    tune_share: Annotated[float, typer.Option(help="Share of the users of a table that tune; the others test.")] = 0.5,
    user: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the user of a table. [default: user, if there is one]"),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            "--list",
            metavar="COLUMN",
            help="A user's rows that share its value are a list of ndcg@K (of a run: time). [default: all of a user]",
        ),
    ] = None,
    encoder: options.OtherEncoder = None,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Make one score of several predictions: Π p^w, or Σ w p, with weights by hand or tuned.

    Tuning looks at rows that are not tested: at the validation rows of a run, or at a part of the users of a table.
    With several metrics it also shows the Pareto front: what one costs the other. Writes the weights, the score of each
    row, and a report to `PREDICTIONS-fused` unless told otherwise.

    Example: `peterrec fuse predictions.parquet --metric click/gauc=1 --metric conversion/gauc=2 -o fused`
    """
    from peterrec.errors import SettingsError
    from peterrec.stages import fuse as stage

    if source == SOURCE and not source.exists():
        raise SettingsError(
            f"There is no run in {SOURCE} yet; run `peterrec finetune --task mmoe_esmm` first, or name a run or a "
            "table of predictions."
        )
    output = output or beside(source.with_suffix("") if source.is_file() else source, "-fused")
    found = stage.run(
        source,
        output=output,
        form=None if form is None else form.value,
        weights=weights,
        scores=None if scores is None else [name.strip() for name in scores.split(",") if name.strip()],
        metrics=metric or (),
        trials=trials,
        seed=seed,
        tune_share=tune_share,
        user=user,
        within=within,
        encoder=encoder,
        device=device.value,
        overwrite=overwrite,
    )
    if not found:
        typer.echo(f"Written to {output}: fused.parquet, weights.json (there are no labels to measure the score by)")
        return
    typer.echo(f"score = {found['fusion']['formula']}\n")
    show_results(found, output)
    typer.echo("The score of each row: fused.parquet; the weights: weights.json")
