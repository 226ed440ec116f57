"""`peterrec recommend`: the best items for the users of a raw log, as a Parquet file or on the terminal."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peterrec.cli import domain_panel, options
from peterrec.cli.domain_input import of_both_logs, refuse_columns_of_target
from peterrec.cli.log_input import LogOptions, open_log_input, world_log
from peterrec.cli.options import ENCODER, BadRows, Device, TimeUnit, refuse_without_log
from peterrec.cli.output import show_counts, show_table
from peterrec.cli.paths import artefact, encoder_folder
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

SHOWN = 5


def recommend(
    context: typer.Context,
    log: options.Log = None,
    model: Annotated[
        Path,
        typer.Option(
            "--model",
            "-m",
            help="Folder of a finished pretrain or cold-start run, or its repository.",
            callback=artefact,
        ),
    ] = ENCODER,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="Items for each user.")] = 10,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PARQUET",
            help="Where to write. [default: nowhere; the first users are shown]",
            show_default=False,
            callback=options.output_path,
        ),
    ] = None,
    show: Annotated[
        int | None, typer.Option("--show", min=1, help=f"Users shown, where nothing is written. [default: {SHOWN}]")
    ] = None,
    remove_seen: Annotated[
        bool | None,
        typer.Option(
            "--remove-seen/--keep-seen",
            help="Whether items that a user has had are no candidates. [default: remove them, where they are known]",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        Path | None,
        typer.Option("--allow", metavar="FILE", help="List of items: only these. Text with one id a line, or a table."),
    ] = None,
    block: Annotated[Path | None, typer.Option("--block", metavar="FILE", help="List of items: none of these.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="LOG",
            help="For cold-start runs: what the users have had of the target domain. Repeatable.",
            rich_help_panel=options.LOG_PANEL,
        ),
    ] = None,
    target_user: domain_panel.TargetUser = None,
    target_item: domain_panel.TargetItem = None,
    target_time: domain_panel.TargetTime = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items",
            metavar="TABLE",
            help="For cold-start runs with item_features: items with their attributes; new ones are recommended too.",
            rich_help_panel=options.LOG_PANEL,
        ),
    ] = None,
    user: options.User = None,
    item: options.Item = None,
    time: options.Time = None,
    time_unit: options.Unit = TimeUnit.auto,
    users: options.WantedUsers = None,
    users_column: options.UsersColumn = None,
    format: options.Format = None,
    bad_rows: options.Bad = BadRows.fail,
    memory_limit: options.Memory = "2GB",
    encoder: options.OtherEncoder = None,
    continued: options.Continued = False,
    device: options.Where = Device.auto,
    overwrite: options.Overwrite = False,
) -> None:
    """Recommend items to the users of a log: the best k by exact scores of the whole catalogue.

    Of an encoder these are the next items, of a cold-start run those of its target domain. Items that the model does
    not know are left out of the histories and counted; a user without known items gets the most popular ones, and the
    column `reason` says so. Columns: user, rank, item, score, reason.

    Example: `peterrec recommend new.csv --model runs/encoder --user customer --item product --time at -o next.parquet`
    """
    from peterrec.stages import recommend as stage

    given = LogOptions(user, item, time, time_unit, None, users_column, format)
    of_target = LogOptions(target_user, target_item, target_time)
    if output is not None and show is not None:
        raise SettingsError("--show is for recommendations that are not written; leave it or --output out.")
    if output is None and overwrite:
        raise SettingsError("--overwrite is about --output FILE.parquet, which was not given.")
    if not log:
        own = (
            "model",
            "k",
            "output",
            "show",
            "remove_seen",
            "allow",
            "block",
            "encoder",
            "continued",
            "device",
            "overwrite",
        )
        refuse_without_log(context, but=own)
        log, given = world_log()
    if model == ENCODER:
        encoder_folder(model)
    with ExitStack() as opened:
        had = None
        if target:
            given, of_target = of_both_logs(given, of_target, target=target)
            had = opened.enter_context(open_log_input(target, of_target, alone=False))
        elif items is None or of_target.user or of_target.time:
            refuse_columns_of_target(of_target)
        source = opened.enter_context(open_log_input(log, given))
        target_columns = None if had is None else had.columns
        if target_columns is None and target_item is not None:  # of --items, whose ids are those of the target domain
            target_columns = replace(source.columns, item=target_item)
        counts = stage.run(
            source.log,
            model=model,
            output=output,
            k=k,
            columns=source.columns,
            users=users,
            users_column=given.column_of_users,
            target=None if had is None else had.log,
            target_columns=target_columns,
            items=items,
            remove_seen=remove_seen,
            allow=allow,
            block=block,
            encoder=encoder,
            continued=continued,
            bad_rows=bad_rows.value,
            memory_limit=memory_limit,
            device=device.value,
            overwrite=overwrite,
            shown=show or SHOWN,
        )
    if output is None:
        shown = counts.pop("recommendations")
        show_table(_table(shown))
        show_counts(counts)
        if counts["users"] > (show or SHOWN):
            typer.echo(f"Shown are the first {show or SHOWN:,}; --output FILE.parquet writes all, --show N shows more.")
        return
    show_counts(counts)


def _table(found: "pa.Table") -> "Table":
    """A line an item, a section a user."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("user", "rank", "item", "score", "reason"):
        right = name in ("rank", "score")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    last = None
    for row in found.to_pylist():
        new = row["user"] != last
        if new and last is not None:
            table.add_section()
        last = row["user"]
        score = f"{row['score']:,.0f}" if row["reason"] == "popularity" else f"{row['score']:.3f}"
        table.add_row(Text(last if new else ""), str(row["rank"]), Text(row["item"]), score, row["reason"])
    return table
