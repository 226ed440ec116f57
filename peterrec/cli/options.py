"""The options that several commands share, and their choices."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli.paths import artefact, named, output_path

RUNS = Path("runs")
ENCODER = RUNS / "encoder"
LOG_PANEL = "The log"


class BadRows(enum.StrEnum):
    fail = "fail"
    drop = "drop"


class TimeUnit(enum.StrEnum):
    auto = "auto"
    s = "s"
    ms = "ms"
    us = "us"
    ns = "ns"
    order = "order"


class Wandb(enum.StrEnum):
    off = "off"
    offline = "offline"
    online = "online"


class Device(enum.StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


Continued = Annotated[
    bool,
    typer.Option(
        "--continued",
        help="Use a task on an encoder that was pretrained further since; predictions differ from before.",
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="LOG",
        help="Files (Parquet, CSV, TSV, JSONL, each also .gz), globs or folders of them; a MovieLens folder, a Tenrec "
        "CSV, PeterRec text, or a `datasets` folder or hub name. Default: the embedded world.",
        show_default=False,
    ),
]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="COLUMN", help="Column of the user. [default: user]", rich_help_panel=LOG_PANEL),
]
Item = Annotated[
    str | None,
    typer.Option("--item", metavar="COLUMN", help="Column of the item. [default: item]", rich_help_panel=LOG_PANEL),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="COLUMN",
        help="Column of the time; without it the rows are taken in file order.",
        rich_help_panel=LOG_PANEL,
    ),
]
Unit = Annotated[
    TimeUnit,
    typer.Option(
        "--time-unit",
        help="What whole numbers in the time column count since 1970; auto tells it by their size. order: they only "
        "say what came first.",
        rich_help_panel=LOG_PANEL,
    ),
]
Users = Annotated[
    Path | None,
    typer.Option("--users", metavar="TABLE", help="Table of users with their labels.", rich_help_panel=LOG_PANEL),
]
WantedUsers = Annotated[
    Path | None,
    typer.Option(
        "--users", metavar="TABLE", help="Table of the users that are wanted. [default: all]", rich_help_panel=LOG_PANEL
    ),
]
UsersColumn = Annotated[
    str | None,
    typer.Option(
        "--users-column",
        metavar="COLUMN",
        help="Column of the user in that table. [default: the same as --user]",
        rich_help_panel=LOG_PANEL,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Public format: movielens, tenrec, peterrec_text, huggingface. [default: detected]",
        rich_help_panel=LOG_PANEL,
    ),
]
Bad = Annotated[
    BadRows,
    typer.Option("--bad-rows", help="Stop at rows that cannot be used, or leave them out.", rich_help_panel=LOG_PANEL),
]
Memory = Annotated[
    str, typer.Option("--memory-limit", help="Memory for reading and sorting the log.", rich_help_panel=LOG_PANEL)
]

Items = Annotated[
    Path | None,
    typer.Option(
        "--items",
        metavar="TABLE",
        help="Table of items with attributes, its ids in the log's item column or in `item`.",
        rich_help_panel=LOG_PANEL,
    ),
]

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write.", show_default=False, callback=output_path)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what a finished run left there.")]
Encoder = Annotated[
    Path,
    typer.Option(
        "--encoder",
        "-e",
        help="Folder of a pretrained encoder, or its repository: owner/name@revision.",
        callback=artefact,
    ),
]
OtherEncoder = Annotated[
    Path | None,
    typer.Option(
        "--encoder", "-e", help="Folder or repository of its encoder, if it is not where it was.", callback=artefact
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", "-d", help="Prepared folder. [default: the one the encoder was trained on]", callback=named),
]
Where = Annotated[Device, typer.Option("--device", help="Where to compute.")]

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="TOML", help="Settings; see `peterrec show settings pretrain`."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="One setting, such as epochs=3. Repeatable."),
]
Task = Annotated[str, typer.Option("--task", "-t", help="A task (`peterrec list tasks`) or the path of a .toml.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="How many seeds: 0, 1, …, each with its own split.")]
Labels = Annotated[
    int | None,
    typer.Option("--labels", min=2, help="Use only so many training labels (few-shot); the test stays the same."),
]
Track = Annotated[Wandb, typer.Option("--wandb", help="Track the run with wandb.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only errors.")]


def refuse_without_log(context: typer.Context, *, but: tuple[str, ...]) -> None:
    """Raises SettingsError for an option that was given without LOG, other than those named in `but`."""
    from peterrec.errors import SettingsError

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in ("log", *but)
        and getattr(context.get_parameter_source(str(parameter.name)), "name", "") == "COMMANDLINE"
    ]
    if given:
        command = context.info_name
        raise SettingsError(
            f"LOG is missing: {', '.join(given)} {'is' if len(given) == 1 else 'are'} about a log, and none was named. "
            f"Name its files, as in `peterrec {command} clicks.csv {given[0]} …`; without LOG, `peterrec {command}` "
            "works on the embedded world."
        )
