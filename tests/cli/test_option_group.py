"""Options that several commands take as one object."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from peterrec.cli.option_group import grouped


@dataclass(frozen=True)
class Where:
    depth: Annotated[int, typer.Option("--depth", "-d", min=1)]
    place: Annotated[str, typer.Option(help="Where to.")] = "here"


def test_a_group_stands_for_its_options_in_their_place():
    seen = []

    @grouped
    def command(first: str = "a", *, where: Where, last: bool = False) -> None:
        """What it does."""
        seen.append((first, where, last))

    parameters = inspect.signature(command).parameters
    assert list(parameters) == ["first", "depth", "place", "last"]
    assert (parameters["place"].default, parameters["depth"].default) == ("here", inspect.Parameter.empty)
    assert command.__doc__ == "What it does."
    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["-d", "3", "--last"]).exit_code == 0
    assert CliRunner().invoke(app, ["-d", "2", "--place", "there", "--first", "b"]).exit_code == 0
    assert CliRunner().invoke(app, ["-d", "0"]).exit_code == 2
    assert CliRunner().invoke(app, ["--place", "x"]).exit_code == 2, "an option without a default is asked for"
    assert seen == [("a", Where(3), True), ("b", Where(2, "there"), False)]
