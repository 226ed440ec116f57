"""`peterrec list` and `peterrec show`: what there is."""

from pathlib import Path
from typing import Annotated

import typer

from peterrec.cli.options import RUNS
from peterrec.cli.output import show_table
from peterrec.errors import SettingsError


def list_(
    kind: Annotated[str | None, typer.Argument(help="adapters, tasks or runs; all by default.")] = None,
    folder: Annotated[Path, typer.Option(help="Where runs are looked for.")] = RUNS,
    repo: Annotated[
        str | None,
        typer.Option(
            "--repo",
            metavar="NAME",
            help="What an owner or a repository of the hub, a published folder or a folder of such holds.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List adapters, tasks and finished runs; with --repo what is published there.

    Example: `peterrec list runs --folder runs`
    """
    from rich.table import Table
    from rich.text import Text

    if repo is not None:
        from peterrec.hub.listing import listing

        if kind is not None:
            raise SettingsError(f"--repo and {kind}: what is published is listed by itself; leave {kind} out.")
        table = Table("name", "kind", "revision", "what", title=repo, title_justify="left")
        for one in listing(repo):
            table.add_row(*map(Text, (one.name, one.kind, one.revision, one.what)))
        show_table(table)
        return
    from peterrec.stages import list as stage

    entries = stage.run(kind, folder=folder)
    for found in dict.fromkeys(entry.kind for entry in entries):
        chosen = [entry for entry in entries if entry.kind == found]
        of_runs = ("stage", "finished") if found == "runs" else ()
        table = Table("name", *of_runs, "what", title=found, title_justify="left")
        for entry in chosen:
            cells = (entry.name, *((entry.stage, entry.date) if of_runs else ()), entry.what)
            table.add_row(*map(Text, cells))  # a name may hold what rich takes for markup
        show_table(table)
    if not entries:
        typer.echo("There is nothing to list yet.")


def show(
    name: Annotated[
        list[str], typer.Argument(help="A recipe, the folder of a run, or `settings pretrain|finetune|impressions`.")
    ],
) -> None:
    """Show a recipe, a finished run, or the settings that a stage takes.

    Example: `peterrec show settings pretrain`
    """
    from peterrec.stages import show as stage

    if name[0] != "settings":
        for each in name:
            typer.echo(stage.run(each))
        return
    from peterrec.errors import did_you_mean
    from peterrec.stages.pretrain import PretrainSettings
    from peterrec.training.finetuning import FinetuningSettings
    from peterrec.training.impression_step import ImpressionSettings

    models = {"pretrain": PretrainSettings, "finetune": FinetuningSettings, "impressions": ImpressionSettings}
    if len(name) != 2 or name[1] not in models:
        raise SettingsError(f"`peterrec show settings` takes a stage. {did_you_mean(' '.join(name[1:]), models)}")
    typer.echo(stage.run(name[1], settings=models[name[1]]))
