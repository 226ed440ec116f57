"""The softmax alone, forward and backward, from given states: time and memory, exact and sampled, by V."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import peterrec_head
from benchmarks.conditions import Conditions
from benchmarks.machine import Machine
from benchmarks.memory import extra_memory, problems
from benchmarks.peterrec_step import NEGATIVES, negatives_of
from benchmarks.stopwatch import take_turns
from benchmarks.tables import Table
from benchmarks.workload import Workload, zipf_items
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.objectives.negatives import NegativeSampler, log_uniform

CHANNELS = 64
TARGETS = 12_800
EXACT = (3_700, 100_000)
SAMPLED = (3_700, 100_000, 1_000_000)

EXACT_TITLE = "Exact softmax"
COLUMNS = {
    "vocabulary": ("V", ",.0f"),
    "targets": ("targets", ",.0f"),
    "who": ("softmax", ""),
    "us": ("µs a target", ",.1f"),
    "us_min": ("min", ",.1f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "gflops": ("GF/s", ",.1f"),
    "share": ("of GEMM", ".2f"),
    "memory_mb": ("peak MB", ",.1f"),
    "times": ("× naive", ",.2f"),
    "memory_share": ("memory of naive's", ".3f"),
}
LABELS = {
    "naive": "naive: all logits, stock cross-entropy",
    "exact": "peterrec, exact",
    "sampled": "peterrec, shared negatives",
}


@dataclass(frozen=True)
class Head:
    """Which softmax (a key of `LABELS`), for how many targets among how many rows."""

    who: str
    vocabulary: int
    targets: int
    channels: int

    def open(self, conditions: Conditions, *, folder: Path | None = None) -> Callable[[], Tensor]:
        """A call that leaves the gradients of states and table in them and returns the loss; it needs no `folder`."""
        device = torch.device(conditions.device)
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(self.targets, self.channels, generator=generator).to(device)
        table = torch.randn(self.vocabulary, self.channels, generator=generator).mul_(0.02).to(device)
        items = zipf_items((self.targets,), vocabulary=self.vocabulary, seed=0)
        targets = torch.from_numpy(items).to(device)
        sampler = NegativeSampler(log_uniform(self.vocabulary - FIRST_ITEM), number=negatives_of(self.vocabulary))
        negatives = sampler.draw(np.random.default_rng(0)).to(device)
        log_counts = negatives.log_counts_of(items).to(device)
        hidden.requires_grad_()
        table.requires_grad_()
        loss_of = {
            "naive": lambda: F.cross_entropy(hidden @ table.t(), targets),
            "exact": lambda: peterrec_head.exact(hidden, table, targets),
            "sampled": lambda: peterrec_head.sampled(
                hidden, table, targets, negatives=negatives, target_log_counts=log_counts
            ),
        }[self.who]

        def call() -> Tensor:
            hidden.grad = table.grad = None
            with conditions.autocast():
                loss = loss_of()
            loss.backward()
            return loss.detach()

        return call

    @property
    def flops(self) -> float:
        """Useful operations of a call."""
        shape = Workload(self.vocabulary, 1, self.channels, self.targets)
        return self.targets * shape.softmax_flops(negatives_of(self.vocabulary) if self.who == "sampled" else None)


def rows_of(heads: list[Head], conditions: Conditions, machine: Machine) -> list[dict[str, Any]]:
    """A row a softmax, all taking turns, with ratios to the naive one among as many rows."""
    timings = take_turns({head: head.open(conditions) for head in heads}, conditions)
    machine.look(f"after the softmaxes, V = {heads[-1].vocabulary:,}")
    rows = []
    for head, timing in timings.items():
        rows.append(
            {
                **asdict(head),
                "peer": head.who,
                "who": LABELS[head.who],
                "us": 1e6 * timing.median / head.targets,
                "us_min": 1e6 * timing.least / head.targets,
                **timing.figures(),
                "gflops": head.flops / timing.median / 1e9,
                **extra_memory(head, conditions).figures(),
            }
        )
    for row in rows:
        naive = [other for other in rows if other["peer"] == "naive" and other["vocabulary"] == row["vocabulary"]]
        if naive and naive[0] is not row:
            row["times"] = naive[0]["us"] / row["us"]
            row["times_best"] = naive[0]["us_min"] / row["us_min"]
            if row["memory_mb"] and naive[0]["memory_mb"]:
                row["memory_share"] = row["memory_mb"] / naive[0]["memory_mb"]
    return rows


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """Exact against naive with as many targets as the naive one can hold; then the sampled one as V grows."""
    channels, exact, sampled, most = CHANNELS, EXACT, SAMPLED, TARGETS
    if conditions.quick:
        channels, exact, sampled, most = 16, (300,), (300, 900), 200
    rows: list[dict[str, Any]] = []
    for vocabulary in exact:
        fitting = conditions.memory // Workload(vocabulary, 1, channels, 1).bytes_of_logits(1)
        targets = min(most, fitting)
        rows += rows_of([Head(who, vocabulary, targets, channels) for who in ("exact", "naive")], conditions, machine)
    notes = [
        f"D = {channels}; gradients of the states and of the whole table. Both take as many targets as the naive one "
        f"can hold in {conditions.memory / 2**30:g} GiB. Peak MB: beyond the process before, states, table and "
        "gradients included, each case in a process of its own."
    ]
    yield Table(EXACT_TITLE, COLUMNS, machine.shares(rows), notes + problems(rows))
    rows = rows_of([Head("sampled", vocabulary, most, channels) for vocabulary in sampled], conditions, machine)
    notes = [
        f"{NEGATIVES:,} negatives (at most V / 3) for all targets of a call, drawn before; rows of targets and "
        "negatives are looked up, and the table's gradient is row-sparse."
    ]
    yield Table("Sampled softmax", COLUMNS, machine.shares(rows), notes + problems(rows))
