"""What a person sees while users are encoded: a bar on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def user_progress(
    title: str, *, users: int, noun: str = "users", console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more of `users`, or of what `noun` says, are done.

    The bar is on standard error and goes at the end.
    """
    console = console or Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(noun),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=users)
        yield lambda done: bar.advance(task, done)
