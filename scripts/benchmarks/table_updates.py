"""One update of an item table, its gradient included: dense and row-sparse, as the catalogue grows."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.conditions import Conditions
from benchmarks.machine import Machine
from benchmarks.stopwatch import take_turns
from benchmarks.tables import Table, megabytes
from benchmarks.workload import zipf_items
from peterrec.training.device import open_accelerator
from peterrec.training.optimizer import Updater
from peterrec.training.pretraining import PretrainingSettings
from peterrec.training.processes import join

CHANNELS = 64
VOCABULARIES = (10_000, 100_000, 1_000_000)
READ = 12_800  # item rows of a step
NEGATIVES = 1_024

COLUMNS = {
    "vocabulary": ("V", ",.0f"),
    "who": ("update", ""),
    "ms": ("ms", ",.2f"),
    "ms_min": ("min", ",.2f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "state_mb": ("state MB", ",.1f"),
    "times": ("× default Adam", ",.1f"),
}
DEFAULT = "torch.optim.Adam, default"
PRODUCT = {
    "dense": "peterrec, fused AdamW",
    "lazy_adam": "peterrec, lazy Adam (row-sparse)",
    "rowwise_adagrad": "peterrec, row-wise Adagrad (row-sparse)",
}


class Lookup(nn.Module):
    """A table whose rows are read; its gradient is fixed, so that nothing but gradient and update is timed."""

    def __init__(self, vocabulary: int, channels: int, *, read: int, negatives: int, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, channels, sparse=sparse)
        ids = [zipf_items((n,), vocabulary=vocabulary, seed=seed) for seed, n in enumerate((read, negatives))]
        self.register_buffer("ids", torch.from_numpy(np.concatenate(ids)))
        self.register_buffer("slope", torch.randn(read + negatives, channels).div_(read))

    def forward(self) -> Tensor:
        """A scalar whose gradient by row n is `slope[n]`."""
        return (self.table(self.ids) * self.slope).sum()


def torch_update(lookup: Lookup, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A call that makes gradient and update with one of torch's optimisers."""

    def call() -> None:
        optimizer.zero_grad()
        lookup().backward()
        optimizer.step()

    return call


def product_update(lookup: Lookup, conditions: Conditions, *, kind: str) -> tuple[Callable[[], None], Updater]:
    """The same with the product's `Updater`, which also takes the gradient's norm and refuses what is not finite."""
    chosen = {
        "device": conditions.device,
        "precision": conditions.precision,
        "clip": 0.0,
        "table_update": kind,
    }
    settings = PretrainingSettings.model_validate(chosen)
    updater = Updater(lookup, settings=settings, accelerator=open_accelerator(settings, processes=join()))

    def call() -> None:
        loss = lookup()
        updater.add(loss)
        updater.update(loss.detach(), step=0, rate=1e-3)

    return call, updater


def rows_of(
    vocabulary: int, conditions: Conditions, *, channels: int, read: int, negatives: int
) -> list[dict[str, Any]]:
    """A row an update, all taking turns."""

    def lookup(*, sparse: bool) -> Lookup:
        torch.manual_seed(0)
        made = Lookup(vocabulary, channels, read=read, negatives=negatives, sparse=sparse)
        return made.to(conditions.device)

    calls: dict[str, Callable[[], None]] = {}
    states: dict[str, Callable[[], list[Tensor]]] = {}
    dense, sparse = lookup(sparse=False), lookup(sparse=True)
    for name, optimizer, module in (
        (DEFAULT, torch.optim.Adam(dense.parameters()), dense),
        ("torch.optim.SparseAdam", torch.optim.SparseAdam(list(sparse.parameters())), sparse),
    ):
        calls[name] = torch_update(module, optimizer)
        states[name] = lambda optimizer=optimizer: [v for s in optimizer.state.values() for v in s.values()]
    for kind, name in PRODUCT.items():
        calls[name], updater = product_update(lookup(sparse=kind != "dense"), conditions, kind=kind)
        states[name] = lambda updater=updater: list(updater.state().values())
    timings = take_turns(calls, conditions)
    return [
        {
            "vocabulary": vocabulary,
            "who": name,
            **timing.figures(),
            "state_mb": megabytes(sum(v.numel() * v.element_size() for v in states[name]() if isinstance(v, Tensor))),
            "times": timings[DEFAULT].median / timing.median,
        }
        for name, timing in timings.items()
    ]


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """One table over all sizes."""
    vocabularies, channels, read, negatives = VOCABULARIES, CHANNELS, READ, NEGATIVES
    if conditions.quick:
        vocabularies, channels, read, negatives = (300,), 16, 100, 10
    rows = []
    for vocabulary in vocabularies:
        rows += rows_of(vocabulary, conditions, channels=channels, read=read, negatives=negatives)
    notes = [
        f"D = {channels}; {read:,} Zipf rows and {negatives:,} negatives touched. Lookup, gradient and update; the "
        "product's also takes the norm of the gradient and looks whether it is finite. Row-sparse updates are other "
        "updates than dense ones: rows that a step does not touch keep their moments."
    ]
    yield Table("Update of an item table", COLUMNS, rows, notes)
    machine.look("after the updates of tables")
