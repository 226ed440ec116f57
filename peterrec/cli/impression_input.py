"""Impressions as the command line names them: labels, fields, tables and a history, opened for a stage."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from peterrec.cli.domain_input import of_both_logs
from peterrec.cli.log_input import LogOptions, open_log_input
from peterrec.cli.output import show_table
from peterrec.errors import SettingsError

if TYPE_CHECKING:
    from peterrec.data.impressions.preparation import Sources
    from peterrec.data.impressions.wanted import Wanted

PANEL = "Impressions"
Label = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="NAME[=RULE]",
        help="A label, which makes LOG a table of impressions: a column of 0 and 1 or of numbers (click), a name for "
        "one (click=clicked), or a rule (click=rating>=4; text compares by == and !=). Repeatable.",
        rich_help_panel=PANEL,
    ),
]
FieldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME[:KIND]",
        help="A column that models read: categorical, numeric or multi (a list, or text a|b). Without a kind more than "
        "100 different numbers are numeric, lists multi, and all others, ids too, categorical. Repeatable.",
        rich_help_panel=PANEL,
    ),
]
Domain = Annotated[
    str | None,
    typer.Option("--domain", metavar="COLUMN", help="Column of the business domain of a row.", rich_help_panel=PANEL),
]
Weight = Annotated[
    str | None,
    typer.Option("--weight", metavar="COLUMN", help="Column of the weight of a row.", rich_help_panel=PANEL),
]
HistoryLog = Annotated[
    list[str] | None,
    typer.Option(
        "--history",
        metavar="LOG",
        help="Log of events: each row gets what its user did strictly before its time, as --encoder knows it. "
        "Repeatable.",
        rich_help_panel=PANEL,
    ),
]
HistoryUser = Annotated[
    str | None,
    typer.Option(
        "--history-user",
        metavar="COLUMN",
        help="Column of the user in --history. [default: as --user]",
        rich_help_panel=PANEL,
    ),
]
HistoryItem = Annotated[
    str | None,
    typer.Option(
        "--history-item",
        metavar="COLUMN",
        help="Column of the item in --history. [default: as --item]",
        rich_help_panel=PANEL,
    ),
]
HistoryTime = Annotated[
    str | None,
    typer.Option(
        "--history-time",
        metavar="COLUMN",
        help="Column of the time in --history. [default: as --time]",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class HistoryOptions:
    """What the options say of the log of events before the impressions."""

    log: list[str] | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    encoder: Path | None = None


@dataclass(frozen=True)
class ImpressionOptions:
    """What the options say of impressions; `columns` are those of the rows themselves and of the users table."""

    labels: Sequence[str]
    fields: Sequence[str]
    columns: LogOptions
    domain: str | None = None
    weight: str | None = None
    items: Path | None = None
    history: HistoryOptions = HistoryOptions()
    split: str | None = None
    fractions: Sequence[float] | None = None

    def wanted(self) -> "Wanted":
        """What the table shall hold. Raises SettingsError for options that do not fit."""
        from peterrec.data.impressions.wanted import Wanted, parse_field, parse_label, split_rule

        columns, unit = self.columns, self.columns.time_unit
        user, time = columns.user is not None, columns.time is not None
        time_unit: Any = str(unit)
        return Wanted(
            labels=tuple(parse_label(label) for label in self.labels),
            fields=tuple(parse_field(field) for field in self.fields),
            user=columns.user,
            item=columns.item,
            time=columns.time,
            time_unit=time_unit,
            domain=self.domain,
            weight=self.weight,
            split=split_rule(self.split, fractions=self.fractions, user=user, time=time),
        )


@contextmanager
def open_impression_input(rows: list[str], options: ImpressionOptions) -> Iterator["Sources"]:
    """The files of impressions and all that is joined to them; a history in a public format is converted meanwhile.

    Raises SettingsError for options that do not fit, and what the readers raise.
    """
    from peterrec.data.impressions.preparation import Sources
    from peterrec.data.impressions.side_table import side_tables

    if not all(path.strip() for path in rows):
        raise SettingsError("LOG is empty; name the files of the impressions.")
    if options.columns.format is not None:
        raise SettingsError(f"--format {options.columns.format} is about logs, and --label makes LOG impressions.")
    side = side_tables(
        users=options.columns.users,
        users_column=options.columns.column_of_users,
        items=options.items,
        items_column=options.columns.item or "item",
    )
    with open_history(options.history, options.columns) as history:
        yield Sources(rows, side, history)


@contextmanager
def open_history(given: HistoryOptions, columns: LogOptions) -> Iterator[Any]:
    """The log of events before impressions with these `columns`, with the encoder's vocabulary; None without one."""
    of_history = LogOptions(given.user, given.item, given.time)
    if not given.log:
        named = [name for name in ("user", "item", "time") if getattr(given, name)]
        if named:
            raise SettingsError(f"--history-{named[0]} is about a log that --history names.")
        if given.encoder is not None:
            raise SettingsError("--encoder reads a history of events; name its log with --history.")
        yield None
        return
    if given.encoder is None:
        raise SettingsError("--history is read by an encoder; name its folder with --encoder.")
    from peterrec.cli.paths import encoder_folder
    from peterrec.data.impressions.history import History
    from peterrec.data.vocabulary import Vocabulary

    vocabulary = Vocabulary.load(encoder_folder(given.encoder) / "vocabulary.parquet")
    rows = LogOptions(columns.user, columns.item, columns.time, columns.time_unit)
    _, of_log = of_both_logs(rows, of_history, target=given.log)
    with open_log_input(given.log, of_log, alone=False) as opened:
        yield History(opened.log, opened.columns, vocabulary)


def prepare_impressions(
    rows: list[str],
    given: ImpressionOptions,
    *,
    output: Path,
    bad_rows: Literal["fail", "drop"],
    memory_limit: str,
    overwrite: bool,
) -> None:
    """Prepares them and prints what came of it. Raises what the stage and `open_impression_input` raise."""
    from peterrec.data.impressions.summary import render_impressions
    from peterrec.stages import prepare_impressions as stage

    wanted = given.wanted()
    with open_impression_input(rows, given) as sources:
        summary = stage.run(
            sources,
            wanted=wanted,
            output=output,
            bad_rows=bad_rows,
            memory_limit=memory_limit,
            overwrite=overwrite,
        )
    show_table(render_impressions(summary))
    encoder = "" if given.history.encoder is None else f" --encoder {shlex.quote(str(given.history.encoder))}"
    task = "mmoe_esmm" if {"click", "conversion"} <= set(summary["labels"]) else "shared_bottom"
    typer.echo(f"Prepared: {output}\nNext: peterrec finetune --task {task}{encoder} --data {shlex.quote(str(output))}")


def predict_impressions(
    rows: list[str] | None,
    *,
    model: Path,
    output: Path,
    history: HistoryOptions,
    users: Path | None,
    users_column: str | None,
    items: Path | None,
    encoder: Path | None,
    continued: bool,
    bad_rows: Literal["fail", "drop"],
    memory_limit: str,
    device: Literal["auto", "cpu", "cuda", "mps"],
    overwrite: bool,
) -> dict[str, Any]:
    """Predicts impressions with a model of them; returns counts.

    Without `rows` a model of the embedded world predicts that world's. Columns are those of the training unless named.
    Raises SettingsError for rows that are missing, and what the stage raises.
    """
    from peterrec.data.impressions.side_table import side_tables
    from peterrec.data.logs.interactions import LogColumns
    from peterrec.impression_run import read_schema
    from peterrec.run_record import read_run
    from peterrec.stages import predict_impressions as stage
    from peterrec.stages import world

    schema = read_schema(model)
    log = history.log
    if not rows:
        run = read_run(model, stage="finetune")
        data = (run.get("inputs") or {}).get("data")
        if data is None or (model / data).resolve() != world.SHOWN.resolve():
            raise SettingsError(
                f"LOG is missing: {model} was trained on impressions of yours; name the files of those to predict. "
                "Only a model of the embedded world does without."
            )
        rows = [str(world.impression_log())]
        if log is None and (run.get("model") or {}).get("encoder_revision"):
            log = [str(path) for path in world.raw_log()]
    known = stage.columns_of(schema)
    columns = LogColumns(
        user=history.user or known.user,
        item=history.item or known.item,
        time=history.time or known.time,
        time_unit=known.time_unit,
    )
    side = side_tables(
        users=users,
        users_column=users_column or schema.user or "user",
        items=items,
        items_column=schema.item or "item",
    )
    return stage.run(
        rows,
        model=model,
        output=output,
        history=log,
        history_columns=columns,
        side=side,
        encoder=encoder,
        continued=continued,
        bad_rows=bad_rows,
        memory_limit=memory_limit,
        device=device,
        overwrite=overwrite,
    )


def refuse_given(context: typer.Context, names: Sequence[str], *, reason: str) -> None:
    """Raises SettingsError for the first of the parameters `names` that was given on the command line."""
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and getattr(source, "name", "") == "COMMANDLINE":
            raise SettingsError(f"{parameter.opts[0]} {reason}")
