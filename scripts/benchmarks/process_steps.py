"""The product's training step by several processes of one thread each, as under torchrun, one step a call."""

import multiprocessing
import os
import socket
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.conditions import Conditions
from benchmarks.peterrec_step import PeterrecStep, Softmax, full_histories
from benchmarks.workload import Workload
from peterrec.data.sequences import Sequences
from peterrec.training.processes import join


class ProcessesStep:
    """As many processes as threads were asked for, which make each step together and wait for the next call."""

    def __init__(
        self, workload: Workload, conditions: Conditions, *, folder: Path, softmax: Softmax = "exact", dropout: float
    ) -> None:
        train = folder / "train"
        full_histories(workload, train)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        self._main, asked = context.Pipe()
        made = (workload, replace(conditions, threads=1), train, softmax, dropout)
        self._children = [
            context.Process(
                target=_serve, args=(number, conditions.threads, port, made, None if number else asked), daemon=True
            )
            for number in range(conditions.threads)
        ]
        for child in self._children:
            child.start()
        asked.close()
        self.targets: int
        self.flops: float
        self.targets, self.flops = self._main.recv()

    def __call__(self) -> None:
        self._main.send(True)
        self._main.recv()

    def close(self) -> None:
        """Ends the processes."""
        self._main.send(False)
        for child in self._children:
            child.join()
        self._main.close()


def _serve(
    number: int,
    count: int,
    port: int,
    made: tuple[Workload, Conditions, Path, Softmax, float],
    asked: Connection | None,
) -> None:
    """What a process does; the main one has `asked`."""
    there = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    there["OMP_NUM_THREADS"] = 1
    os.environ |= {name: str(value) for name, value in there.items()} | {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    workload, conditions, train, softmax, dropout = made
    step = PeterrecStep(workload, conditions, train=Sequences(train), softmax=softmax, dropout=dropout)
    processes = join()
    if asked is not None:
        asked.send((step.targets, step.flops))
    # the others wait for the main one's word, so that nobody computes while it is a rival's turn
    while processes.share(None if asked is None else asked.recv()):
        step()
        if asked is not None:
            asked.send(True)
    processes.leave()
