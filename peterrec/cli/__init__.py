"""The command line: one command a stage; it parses, calls the stage, and prints what came of it.

Whatever loads torch, DuckDB and the like is imported inside the commands, so that `peterrec --help` is quick.
"""

import errno
import io
import os
import sys
from typing import Annotated

import typer

from peterrec.cli.catalogue import list_, show
from peterrec.cli.data import check, prepare
from peterrec.cli.evaluation import evaluate
from peterrec.cli.fusing import fuse
from peterrec.cli.inference import encode, predict
from peterrec.cli.launch import follow, leading, refuse_launch
from peterrec.cli.pretraining import pretrain
from peterrec.cli.publishing import fetch, publish
from peterrec.cli.recommend import recommend
from peterrec.cli.serving import serve
from peterrec.cli.training import compare, finetune
from peterrec.errors import PeterrecError
from peterrec.training.launcher import leads

__all__ = ["app", "execute", "main"]

app = typer.Typer(
    name="peterrec",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS = (check, prepare, pretrain, finetune, compare, evaluate, predict, fuse, recommend, encode, publish, fetch)
for command in COMMANDS:
    app.command()(command)
app.command(name="list")(list_)
app.command()(show)
app.command()(serve)

# The errors that a wrong path in the command line gives; every other one is the machine's.
_WRONG_PATH = {
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"peterrec {version('peterrec')}")
        raise typer.Exit


@app.callback()
def peterrec(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Pretrain a user encoder once, adapt it to many tasks with small adapters.

    Without data of your own, every command works on an embedded synthetic world:

        peterrec pretrain
        peterrec finetune --task gender
        peterrec compare --task gender

    With your own log:

        peterrec check clicks.csv --user customer --item product --time at
        peterrec prepare clicks.csv --user customer --item product --time at --users people.csv --output data
        peterrec pretrain data

    Exit codes: 0 ok, 2 usage or settings, 3 data, 4 disk or memory, 5 diverged, 6 folder in use, 7 refused (wrong or
    damaged artefact), 130 interrupted (run the same command to go on).
    """
    refuse_launch(context.invoked_subcommand)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and leaves with an exit code; mistakes of the user show no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or pipe that is not UTF-8 shows ? for what it lacks
            stream.reconfigure(errors="replace")
    raise SystemExit(execute(sys.argv[1:] if arguments is None else arguments))


def execute(arguments: list[str]) -> int:
    """Runs the command line in this process and returns the exit code."""
    # libraries must not talk over our output; a user's own choice stands
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        if not leads():
            return follow()
        with leading():
            app(arguments or ["--help"], prog_name="peterrec")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 0 if leaving.code is None else 1
        if code == 130:
            typer.echo("Interrupted.", err=True)
        return code
    except KeyboardInterrupt:  # while arguments are parsed
        typer.echo("Interrupted.", err=True)
        return 130
    except PeterrecError as problem:
        typer.echo(f"error: {problem}", err=True)
        return problem.exit_code
    except MemoryError:
        typer.echo("error: out of memory. Lower --memory-limit, training.positions or encoder.hidden_size.", err=True)
        return 4
    except OSError as problem:
        typer.echo(f"error: {_told(problem)}", err=True)
        return 2 if problem.errno in _WRONG_PATH else 4
    return 0


def _told(problem: OSError) -> str:
    """What an error of the operating system that no stage foresaw means to a user."""
    place = f"{os.fsdecode(problem.filename)}: " if isinstance(problem.filename, str | bytes) else ""
    reason = problem.strerror or str(problem) or type(problem).__name__
    if problem.errno in _WRONG_PATH:
        return f"{place}{reason}. Check this path in your command."
    if problem.errno in _FULL:
        return f"{place}{reason}. Free some space and run again."
    return f"{place}{reason}. Check the disk and the rights of this file or folder, then run again."
