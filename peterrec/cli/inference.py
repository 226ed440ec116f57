"""`peterrec predict` and `peterrec encode`: a raw log in, one Parquet file with a row a user out."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import impression_input, options
from peterrec.cli.impression_input import HistoryOptions, predict_impressions, refuse_given
from peterrec.cli.log_input import LogOptions, open_log_input, world_log
from peterrec.cli.options import ENCODER, RUNS, BadRows, Device, TimeUnit, refuse_without_log
from peterrec.cli.output import show_counts
from peterrec.cli.paths import artefact, beside, encoder_folder, finished_run


class Readout(enum.StrEnum):
    mean = "mean"
    last = "last"
    tcl = "tcl"
    tcl_ends = "tcl_ends"
    first_last = "first_last"
    sqrtn = "sqrtn"
    attention = "attention"


def events(text: str) -> str:
    """`all`, or a number above 0; raises typer.BadParameter for anything else."""
    if text != "all" and (not text.isdecimal() or int(text) < 1):
        raise typer.BadParameter(f"{text!r} is neither a number above 0 nor the word all.")
    return text


def predict(
    context: typer.Context,
    log: options.Log = None,
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="Folder of a finished finetune run, or its repository.",
            callback=artefact,
        ),
    ] = RUNS / "gender",
    output: options.Output = None,
    user: options.User = None,
    item: options.Item = None,
    time: options.Time = None,
    time_unit: options.Unit = TimeUnit.auto,
    users: options.WantedUsers = None,
    users_column: options.UsersColumn = None,
    format: options.Format = None,
    bad_rows: options.Bad = BadRows.fail,
    memory_limit: options.Memory = "2GB",
    history: impression_input.HistoryLog = None,
    history_user: impression_input.HistoryUser = None,
    history_item: impression_input.HistoryItem = None,
    history_time: impression_input.HistoryTime = None,
    items: options.Items = None,
    encoder: options.OtherEncoder = None,
    continued: options.Continued = False,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Predict a task for the users of a log: user, predicted class, probabilities. Or what follows impressions.

    Items that the encoder does not know are left out and counted; a user without known items gets the class shares of
    the training labels. `--users` asks for certain users, with or without events. Writes to
    `MODEL-predictions.parquet` unless told otherwise.

    With a model of impressions LOG holds impressions, with the columns that it was trained on (labels are not needed),
    --history what their users did before, and --users and --items the tables that fields come from; each row gets its
    p_ctr, p_cvr and p_ctcvr, in the order of LOG.

    Example: `peterrec predict new.csv --model runs/gender --user customer --item product --time at -o genders.parquet`
    """
    from peterrec.run_record import read_run
    from peterrec.run_weights import kind_of
    from peterrec.stages import predict as stage

    if kind_of(read_run(model, stage="finetune")) == "impressions":
        refuse_given(
            context,
            _OF_LOGS,
            reason="is about logs; of impressions a model reads the columns it learnt from: leave it out, and give LOG "
            "the names of those columns.",
        )
        if not log:
            refuse_without_log(context, but=("model", "output", "encoder", "continued", "device", "overwrite"))
        of_history = HistoryOptions(history, history_user, history_item, history_time)
        counts = predict_impressions(
            log,
            model=model,
            output=output or beside(model, "-predictions.parquet"),
            history=of_history,
            users=users,
            users_column=users_column,
            items=items,
            encoder=encoder,
            continued=continued,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
        )
        show_counts(counts)
        return
    refuse_given(context, _OF_IMPRESSIONS, reason="is about impressions, and the model predicts a label of users.")
    given = LogOptions(user, item, time, time_unit, None, users_column, format)
    if not log:
        refuse_without_log(context, but=("model", "output", "encoder", "continued", "device", "overwrite"))
        log, given = world_log()
    finished_run(model, stage="finetune")
    with open_log_input(log, given) as opened:
        counts = stage.run(
            opened.log,
            model=model,
            output=output or beside(model, "-predictions.parquet"),
            columns=opened.columns,
            users=users,
            users_column=given.column_of_users,
            encoder=encoder,
            continued=continued,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
        )
    show_counts(counts)


_OF_LOGS = ("user", "item", "time", "time_unit", "format")
_OF_IMPRESSIONS = ("history", "history_user", "history_item", "history_time", "items")


def encode(
    context: typer.Context,
    log: options.Log = None,
    encoder: options.Encoder = ENCODER,
    output: options.Output = None,
    user: options.User = None,
    item: options.Item = None,
    time: options.Time = None,
    time_unit: options.Unit = TimeUnit.auto,
    users: options.WantedUsers = None,
    users_column: options.UsersColumn = None,
    format: options.Format = None,
    bad_rows: options.Bad = BadRows.fail,
    memory_limit: options.Memory = "2GB",
    readout: Annotated[
        Readout | None, typer.Option(help="How hidden states become a vector. [default: the encoder's]")
    ] = None,
    max_length: Annotated[
        str | None,
        typer.Option(
            parser=events,
            metavar="N|all",
            help="Events read of each user. [default: the encoder's; all if it learnt from users alone]",
        ),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, help="Positions encoded together. [default: as many as the encoder takes]")
    ] = None,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the vectors of a log's users to Parquet: user, vector, events, events_used.

    Writes to `ENCODER-vectors.parquet` unless told otherwise.

    Example: `peterrec encode new.csv --encoder runs/encoder --user customer --item product --time at -o users.parquet`
    """
    from peterrec.stages import encode as stage

    encoder_folder(encoder)
    given = LogOptions(user, item, time, time_unit, None, users_column, format)
    if not log:
        refuse_without_log(context, but=("encoder", "output", "readout", "max_length", "window", "device", "overwrite"))
        log, given = world_log()
    with open_log_input(log, given) as opened:
        counts = stage.run(
            opened.log,
            encoder=encoder,
            output=output or beside(encoder, "-vectors.parquet"),
            columns=opened.columns,
            users=users,
            users_column=given.column_of_users,
            readout=None if readout is None else readout.value,
            max_length=None if max_length is None else "all" if max_length == "all" else int(max_length),
            window=window,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
        )
    show_counts(counts)
