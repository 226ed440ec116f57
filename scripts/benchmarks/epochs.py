"""A whole epoch over histories of very different lengths: the product's batches beside batches padded to the maximum.

Both learn the same pairs of an event and the next, each once; they take turns, a portion of the epoch each.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.conditions import Conditions
from benchmarks.machine import Machine
from benchmarks.naive_nextitnet import NaiveStep
from benchmarks.padded_pipeline import padded_batches
from benchmarks.peterrec_step import PeterrecStep, write_sequences
from benchmarks.stopwatch import Timing, seconds_of
from benchmarks.tables import Table
from benchmarks.workload import Workload, zipf_items
from peterrec.data.prepared import open_prepared
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import PAD
from peterrec.training.step import Step

USERS = 6_040
ROWS = 3_709
MEDIAN, MEAN, SHORTEST = 95, 162, 20  # of MovieLens-1M
PORTIONS = 10

LENGTH = 200
TITLE = "Epoch"
NAIVE, OURS = "naive torch, padded to the maximum", "peterrec, length buckets"
COLUMNS = {
    "who": ("pipeline", ""),
    "targets": ("targets", ",.0f"),
    "positions": ("positions", ",.0f"),
    "seconds": ("seconds", ",.1f"),
    "rate": ("targets/s", ",.0f"),
    "spread": ("spread of the portions", ".0%"),
    "times": ("times faster", ",.2f"),
    "times_least": ("in the worst portion", ",.2f"),
}


@dataclass
class Pipeline:
    """What each portion of its epoch took, and how many targets it had."""

    name: str
    positions: int = 0  # of the epoch, padding included
    timing: Timing = field(default_factory=Timing)
    targets: list[int] = field(default_factory=list)

    def make(self, portion: Callable[[], int], conditions: Conditions) -> None:
        """Times a portion, which returns its targets."""
        self.timing.seconds.append(seconds_of(lambda: self.targets.append(portion()), conditions))

    @property
    def seconds(self) -> float:
        return sum(self.timing.seconds)

    @property
    def costs(self) -> list[float]:
        """Seconds a target, portion by portion."""
        return [seconds / targets for seconds, targets in zip(self.timing.seconds, self.targets, strict=True)]

    def figures(self) -> dict[str, Any]:
        """Its row of the table."""
        return {
            "who": self.name,
            "targets": sum(self.targets),
            "positions": self.positions,
            "seconds": self.seconds,
            "rate": sum(self.targets) / self.seconds,
            "spread": Timing(self.costs).spread,
        }


def lognormal_lengths(users: int, *, median: float, mean: float, shortest: int) -> NDArray[np.int64]:
    """Lengths `(users,)` with that median and mean (before the shortest are lengthened)."""
    sigma = np.sqrt(2 * np.log(mean / median))
    drawn = np.random.default_rng(0).lognormal(np.log(median), sigma, size=users)
    return np.maximum(np.rint(drawn), shortest).astype(np.int64)


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """One table: two pipelines, the same epoch."""
    quick = conditions.quick
    shape = Workload(ROWS, 12 if quick else LENGTH, 16 if quick else 64, 8 if quick else 64, 4 if quick else 16)
    with tempfile.TemporaryDirectory() as temporary:
        if conditions.folder is not None:
            prepared = open_prepared(conditions.folder)
            train, what = prepared.sequences("train"), f"training histories of {conditions.folder.name}"
            shape = Workload(len(prepared.vocabulary), shape.length, shape.channels, shape.users, shape.convolutions)
        else:
            train, what = _drawn(shape, 40 if quick else USERS, folder=Path(temporary) / "train")
        yield _table(shape, train, what, conditions)
    machine.look("after the epoch")


def _drawn(shape: Workload, users: int, *, folder: Path) -> tuple[Sequences, str]:
    lengths = lognormal_lengths(users, median=MEDIAN, mean=MEAN, shortest=SHORTEST)
    flat = zipf_items((int(lengths.sum()),), vocabulary=shape.vocabulary, seed=0)
    return write_sequences(folder, flat, lengths), f"log-normal lengths, median {MEDIAN}, mean {MEAN}"


def _table(shape: Workload, train: Sequences, what: str, conditions: Conditions) -> Table:
    ours, naive = PeterrecStep(shape, conditions, train=train), NaiveStep(shape, conditions)
    windows = [
        train.items_of(int(row))[start:stop].tolist()
        for step in ours.steps
        for row, start, stop in zip(step.row, step.start, step.stop, strict=True)
    ]
    batches = iter(padded_batches(windows, length=shape.length, users=shape.users))
    number = -(-len(windows) // shape.users)
    portions = min(PORTIONS, number, len(ours.steps))
    pipelines = (Pipeline(NAIVE), Pipeline(OURS))
    naive()  # both once to warm up
    ours()
    for theirs, own in zip(_split(range(number), portions), _split(ours.steps, portions), strict=True):
        few = itertools.islice(batches, len(theirs))
        pipelines[0].make(lambda few=few: _naive_steps(naive, few), conditions)
        pipelines[1].make(lambda chosen=own: _own_steps(ours, chosen), conditions)
    slow, quick = pipelines
    assert sum(slow.targets) == sum(quick.targets)
    slow.positions = len(windows) * shape.length
    quick.positions = sum(len(s.row) * int((s.stop - s.start - 1).max()) for s in ours.steps)
    worst = min(a / b for a, b in zip(slow.costs, quick.costs, strict=True))
    best = min(slow.costs) / min(quick.costs)
    ratios = {"times": slow.seconds / quick.seconds, "times_least": worst, "times_best": best}
    rows = [{"length": shape.length, **row} for row in (slow.figures(), quick.figures() | ratios)]
    notes = [
        f"{shape}; {what}; {len(train):,} users in {len(windows):,} windows. Both learn the same pairs, each once, "
        f"exact softmax, no dropout; {portions} portions of the epoch in turn. The naive pipeline: Python lists, "
        f"padded to {shape.length}, stacked by torch's `DataLoader`, {shape.users} users a batch; the naive step. "
        f"The product: batches of {shape.positions:,} positions from length buckets, read from the mapped file."
    ]
    return Table(TITLE, COLUMNS, rows, notes)


def _naive_steps(naive: NaiveStep, batches: Iterable[Tensor]) -> int:
    targets = 0
    for events in batches:
        naive.train_on(events)
        targets += int((events[:, 1:] != PAD).sum())
    return targets


def _own_steps(ours: PeterrecStep, steps: Sequence[Step]) -> int:
    for step in steps:
        ours.train_on(step)
    return sum(ours.program.num_targets(step) for step in steps)


def _split(steps: Sequence[Any], portions: int) -> list[Sequence[Any]]:
    ends = [len(steps) * number // portions for number in range(portions + 1)]
    return [steps[first:last] for first, last in itertools.pairwise(ends)]
