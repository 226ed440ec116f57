"""`peterrec check` and `peterrec prepare`: from a raw log to a prepared folder."""

import enum
import shlex
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli import impression_input, options
from peterrec.cli.domain_input import item_rule
from peterrec.cli.impression_input import (
    HistoryOptions,
    ImpressionOptions,
    open_impression_input,
    prepare_impressions,
    refuse_given,
)
from peterrec.cli.log_input import LogOptions, open_log_input, world_log
from peterrec.cli.options import BadRows, TimeUnit, refuse_without_log
from peterrec.cli.output import show_table
from peterrec.cli.paths import artefact, encoder_folder


class Split(enum.StrEnum):
    temporal = "temporal"
    leave_one_out = "leave_one_out"
    by_user = "by_user"
    each_user = "each_user"
    rows = "rows"


def check(
    context: typer.Context,
    log: options.Log = None,
    user: options.User = None,
    item: options.Item = None,
    time: options.Time = None,
    time_unit: options.Unit = TimeUnit.auto,
    users: options.Users = None,
    users_column: options.UsersColumn = None,
    format: options.Format = None,
    memory_limit: options.Memory = "2GB",
    label: impression_input.Label = None,
    field: impression_input.FieldOption = None,
    domain: impression_input.Domain = None,
    weight: impression_input.Weight = None,
    items: options.Items = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Report every problem of a log: file, row, column, value, count, and what to do.

    A log of yours is only read. Without LOG, the raw log of the embedded world is checked, with a few bad rows planted
    in it; that writes `runs/world-raw` once. The exit code is 3 if any row cannot be used.

    With --label, LOG is a table of impressions: labelled rows of who was shown what.

    Example: `peterrec check clicks-*.csv.gz --user customer --item product --time at --users people.parquet`
    """
    given = LogOptions(user, item, time, time_unit, users, users_column, format)
    if not log:
        refuse_without_log(context, but=("json",))
        log, given = world_log(planted=True)
    if label:
        from peterrec.stages import prepare_impressions as stage

        impressions = ImpressionOptions(label, field or (), given, domain, weight, items)
        with open_impression_input(log, impressions) as sources:
            report = stage.check(sources, wanted=impressions.wanted(), memory_limit=memory_limit)
    else:
        from peterrec.stages import check as stage

        refuse_given(context, ("field", "domain", "weight", "items"), reason=_WITHOUT_LABEL)
        with open_log_input(log, given) as opened:
            report = stage.run(
                opened.log,
                columns=opened.columns,
                users=opened.users,
                users_column=opened.users_column,
                memory_limit=memory_limit,
            )
    if json:
        typer.echo(report.to_json())
    else:
        show_table(report.render())
    if not report.ok:
        raise typer.Exit(3)


def prepare(
    context: typer.Context,
    log: options.Log = None,
    output: options.Output = None,
    user: options.User = None,
    item: options.Item = None,
    time: options.Time = None,
    time_unit: options.Unit = TimeUnit.auto,
    users: options.Users = None,
    users_column: options.UsersColumn = None,
    format: options.Format = None,
    bad_rows: options.Bad = BadRows.fail,
    memory_limit: options.Memory = "2GB",
    split: Annotated[
        Split | None,
        typer.Option(
            help="temporal: one cut in time for all users; leave_one_out: the last item of each user; by_user: whole "
            "users. [default: temporal, or leave_one_out for a log without times] Of impressions also each_user: the "
            "last rows of each user; rows: at random. [default: each_user with --user and --time, or rows]"
        ),
    ] = None,
    fractions: Annotated[
        str | None,
        typer.Option(
            help="Cuts of temporal (0.8,0.9), shares of by_user (0.7,0.03,0.27) or of impressions (0.7,0.1,0.2)."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws the users of by_user.")] = 0,
    encoder: Annotated[
        Path | None,
        typer.Option(
            "--encoder",
            "-e",
            help="Use the item vocabulary of this encoder; items that it lacks are left out.",
            callback=artefact,
        ),
    ] = None,
    vocabulary_of: Annotated[
        Path | None,
        typer.Option(
            help="Extend the item vocabulary of this encoder or prepared folder by the new items, for `pretrain "
            "--from`: old items keep their rows.",
            callback=artefact,
        ),
    ] = None,
    items: options.Items = None,
    without_items: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Leave out the items that have this value in --items: the target domain of a cold start, of which the "
            "encoder shall know nothing.",
        ),
    ] = None,
    before_target: Annotated[
        bool,
        typer.Option(
            "--before-target",
            help="With --without-items: leave out as well what a user did after the last of those items, so that the "
            "encoder sees nothing that lies after the events a cold start is tested on.",
        ),
    ] = False,
    min_item_count: Annotated[int, typer.Option(min=1, help="Leave out items with fewer events.")] = 1,
    min_user_events: Annotated[int, typer.Option(min=1, help="Leave out users with fewer events.")] = 1,
    label: impression_input.Label = None,
    field: impression_input.FieldOption = None,
    domain: impression_input.Domain = None,
    weight: impression_input.Weight = None,
    history: impression_input.HistoryLog = None,
    history_user: impression_input.HistoryUser = None,
    history_item: impression_input.HistoryItem = None,
    history_time: impression_input.HistoryTime = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Turn a log into a prepared folder: sorted, numbered, split, memory-mapped, with a summary.

    The folder is a `datasets.DatasetDict`. Without LOG, the embedded world is prepared in `runs/world`, by
    leave-one-out; its raw log is written to `runs/world-log`.

    With --label, LOG is a table of impressions: labelled rows of who was shown what, with fields that models read:
    `--label click --label conversion=bought --field item --field price:numeric --domain page`.

    Example: `peterrec prepare clicks.parquet --user customer --item product --time at --users people.csv -o data`
    """
    from peterrec.data.source_part import WithoutItems
    from peterrec.data.summary import render_summary
    from peterrec.errors import SettingsError
    from peterrec.stages import prepare as stage
    from peterrec.stages import world

    if not log:
        refuse_without_log(context, but=("output", "split", "overwrite"))
        output = output or world.FOLDER
        summary = world.run(output=output, split=split or Split.leave_one_out, overwrite=overwrite)
    else:
        if output is None:
            raise SettingsError("name the folder to write, for example --output data.")
        given = LogOptions(user, item, time, time_unit, users, users_column, format)
        if label:
            refuse_given(context, _OF_LOGS, reason="is about logs, and --label makes LOG a table of impressions.")
            of_history = HistoryOptions(history, history_user, history_item, history_time, encoder)
            shares = _numbers(fractions)
            impressions = ImpressionOptions(
                label, field or (), given, domain, weight, items, of_history, split and split.value, shares
            )
            prepare_impressions(
                log, impressions, output=output, bad_rows=bad_rows.value, memory_limit=memory_limit, overwrite=overwrite
            )
            return
        refuse_given(context, _OF_IMPRESSIONS, reason=_WITHOUT_LABEL)
        if encoder is not None:
            encoder_folder(encoder)
        if before_target and without_items is None:
            raise SettingsError("--before-target is about the items that --without-items leaves out; name them.")
        rule = None if without_items is None else item_rule(without_items, option="--without-items")
        with open_log_input(log, given) as opened:
            default = Split.leave_one_out if opened.columns.time is None else Split.temporal
            summary = stage.run(
                opened.log,
                output=output,
                columns=opened.columns,
                users=opened.users,
                users_column=opened.users_column,
                items=opened.items if items is None else items,
                without=None if rule is None else WithoutItems(rule, before_target=before_target),
                split=split or default,
                split_fractions=_numbers(fractions),
                seed=seed,
                encoder=encoder,
                vocabulary_of=vocabulary_of,
                bad_rows=bad_rows.value,
                memory_limit=memory_limit,
                minimum_item_count=min_item_count,
                minimum_user_events=min_user_events,
                overwrite=overwrite,
            )
    show_table(render_summary(summary))
    folder = shlex.quote(str(output))
    after = f"pretrain {folder}"
    if encoder is not None:
        after = f"finetune --encoder {shlex.quote(str(encoder))} --data {folder}"
    elif vocabulary_of is not None and (vocabulary_of / "config.json").is_file():
        after += f" --from {shlex.quote(str(vocabulary_of))}"
    typer.echo(f"Prepared: {output}\nNext: peterrec {after}")


_WITHOUT_LABEL = "is about impressions; say with --label what is to be predicted of them."
_OF_IMPRESSIONS = ("field", "domain", "weight", "history", "history_user", "history_item", "history_time")
_OF_LOGS = ("format", "seed", "vocabulary_of", "without_items", "before_target", "min_item_count", "min_user_events")


def _numbers(listed: str | None) -> list[float] | None:
    from peterrec.errors import SettingsError

    if listed is None:
        return None
    try:
        return [float(part) for part in listed.split(",")]
    except ValueError:
        raise SettingsError(f"--fractions {listed}: expected numbers separated by commas, such as 0.8,0.9.") from None
