"""The options about the logs of a source and a target domain."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli.options import BadRows, TimeUnit

DOMAINS_PANEL = "The logs of a cold start"
SourceLog = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="LOG",
        help="For tasks that rank items: the log of the source domain, whose items the encoder knows. Repeatable. "
        "[default: the embedded world]",
        show_default=False,
        rich_help_panel=DOMAINS_PANEL,
    ),
]
TargetLog = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="LOG",
        help="The log of the target domain, with the same users. Repeatable.",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
DomainItems = Annotated[
    Path | None,
    typer.Option(
        "--items",
        metavar="TABLE",
        help="Table of items with attributes, for item_features and --target-items.",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
TargetItems = Annotated[
    str | None,
    typer.Option(
        "--target-items",
        metavar="COLUMN=VALUE",
        help="Instead of --target: the items of --source that have this value are the target domain.",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
DomainUser = Annotated[
    str | None,
    typer.Option("--user", metavar="COLUMN", help="Column of the user. [default: user]", rich_help_panel=DOMAINS_PANEL),
]
DomainItem = Annotated[
    str | None,
    typer.Option("--item", metavar="COLUMN", help="Column of the item. [default: item]", rich_help_panel=DOMAINS_PANEL),
]
DomainTime = Annotated[
    str | None,
    typer.Option(
        "--time",
        metavar="COLUMN",
        help="Column of the time; one log may go without, and is then taken in file order.",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
DomainUnit = Annotated[
    TimeUnit,
    typer.Option(
        "--time-unit",
        help="What whole numbers in the time columns count since 1970; order: they only say what came first.",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
TargetUser = Annotated[
    str | None,
    typer.Option(
        "--target-user",
        metavar="COLUMN",
        help="Column of the user in --target. [default: as --user]",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
TargetItem = Annotated[
    str | None,
    typer.Option(
        "--target-item",
        metavar="COLUMN",
        help="Column of the item in --target. [default: as --item]",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
TargetTime = Annotated[
    str | None,
    typer.Option(
        "--target-time",
        metavar="COLUMN",
        help="Column of the time in --target. [default: as --time]",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
DomainFormat = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Public format of the logs: movielens, tenrec, peterrec_text, huggingface. [default: detected]",
        rich_help_panel=DOMAINS_PANEL,
    ),
]
DomainBad = Annotated[
    BadRows,
    typer.Option(
        "--bad-rows", help="Stop at rows that cannot be used, or leave them out.", rich_help_panel=DOMAINS_PANEL
    ),
]
DomainMemory = Annotated[
    str,
    typer.Option("--memory-limit", help="Memory for reading and joining the logs.", rich_help_panel=DOMAINS_PANEL),
]
