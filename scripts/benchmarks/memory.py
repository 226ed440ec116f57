"""The memory that a case needs beyond what the process had: each in a child process, so that peaks do not mix."""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.conditions import Conditions
from benchmarks.tables import megabytes
from peterrec.training.memory import PeakMemory

CALLS = 2  # the optimiser's state exists from the end of the first on
# installed packages alone: up to Python 3.13 the server that forks does not know this process's path
IMPORTED_ONCE = ["peterrec.stages.pretrain", "peterrec.inference", "datasets"]


class Case(Protocol):
    """Plain data that says what to call."""

    def open(self, conditions: Conditions, *, folder: Path) -> Callable[[], object]:
        """What is called; its files go into `folder`."""
        ...


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, parameters and optimiser's state included; or None, and why."""

    bytes: int | None
    problem: str | None = None

    def figures(self) -> dict[str, Any]:
        """What a row of a table says about it."""
        return {"memory_mb": megabytes(self.bytes), "memory_problem": self.problem}


def problems(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Notes on the rows of a table whose memory could not be measured."""
    return [
        f"No memory for {row['who']}, V = {row['vocabulary']:,}: {row['memory_problem']}."
        for row in rows
        if row["memory_problem"] is not None
    ]


def extra_memory(case: Case, conditions: Conditions) -> Memory:
    """Makes the case and calls it in a child process; one that dies, for want of memory say, says so."""
    kinds = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in kinds else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(IMPORTED_ONCE)  # imports take longer than most cases
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_watch, args=(case, conditions, sender))  # type: ignore[attr-defined]
    child.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        child.join()
        return Memory(None, f"its process ended with {child.exitcode}")
    finally:
        receiver.close()
    child.join()
    return found


def _watch(case: Case, conditions: Conditions, answers: Connection) -> None:
    torch.set_num_threads(conditions.threads)
    device = torch.device(conditions.device)
    torch.mm(torch.ones(256, 256, device=device), torch.ones(256, 256, device=device))  # threads and their buffers
    try:
        with tempfile.TemporaryDirectory() as folder:
            watch = PeakMemory()
            before = watch.read(device)
            call = case.open(conditions, folder=Path(folder))
            for _ in range(CALLS):
                call()
            conditions.wait()
            after = watch.read(device)
    except (RuntimeError, MemoryError) as problem:  # torch raises the former when memory is short
        answers.send(Memory(None, str(problem).splitlines()[0]))
    else:
        answers.send(Memory(None if before is None or after is None else after - before))
