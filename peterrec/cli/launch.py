"""The command line as several processes: the main one runs the command, the others help it train and stay silent."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from peterrec.errors import DivergedError, PeterrecError, RefusedError, SettingsError
from peterrec.training.launcher import launched

TOGETHER = ("pretrain", "finetune")


def refuse_launch(command: str | None) -> None:
    """Raises SettingsError for a command that one process computes."""
    if launched() and command not in TOGETHER:
        raise SettingsError(
            f"peterrec {command} computes in one process; start it without torchrun or accelerate launch. "
            f"Several processes make {' and '.join(TOGETHER)}."
        )


@contextmanager
def leading() -> Iterator[None]:
    """The main process's command; when it has ended, however it did, the others go."""
    if not launched():
        yield
        return
    from peterrec.training.processes import join

    processes = join()
    try:
        yield
    finally:
        processes.end()


def follow() -> int:
    """Helps the main process until its command has ended; the exit code of this process.

    What all processes end with is said by the main one; what happened to this one alone is said here.
    """
    from peterrec.stages import finetune, pretrain
    from peterrec.training.loop import InterruptedRun
    from peterrec.training.processes import DismissedError, LostProcessError, join

    helped = {"pretrain": pretrain.follow, "finetune": finetune.follow}
    code = 0
    processes = None
    try:
        processes = join()
        for stage, facts in processes.jobs():
            helped[stage](facts)
    except (LostProcessError, DismissedError):
        code = 0  # the main process says why
    except KeyboardInterrupt:
        return 130
    except PeterrecError as problem:
        assert processes is not None
        shared = (InterruptedRun, DivergedError, SettingsError, RefusedError)
        if not (processes.begun and isinstance(problem, shared)):
            typer.echo(f"error: process {processes.number} of {processes.count}: {problem}", err=True)
            return problem.exit_code
        code = problem.exit_code
    if processes is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the main process is about to end, and this one with it
        processes.outstay()
    return code
