"""The bar over users: on a terminal only."""

import io

import pytest
from rich.console import Console

from peterrec.stages.user_progress import user_progress


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_for_terminals(terminal):
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    with user_progress("encoding", users=10, console=console) as advance:
        for done in (4, 6):
            advance(done)
    assert ("10/10" in out.getvalue()) == terminal
    assert bool(out.getvalue()) == terminal
