"""Reading a batch of histories: the product's gather from the mapped file beside the formats of `datasets`."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from benchmarks.conditions import Conditions
from benchmarks.epochs import MEAN, MEDIAN, SHORTEST, lognormal_lengths
from benchmarks.machine import Machine
from benchmarks.peterrec_step import write_sequences
from benchmarks.stopwatch import take_turns
from benchmarks.tables import Table
from benchmarks.workload import zipf_items
from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import PAD
from peterrec.inference import last_events

USERS = 60_400
ROWS = 3_709
BATCH = 256
LENGTH = 200

COLUMNS = {
    "who": ("reader", ""),
    "ms": ("ms a batch", ",.2f"),
    "ms_min": ("min", ",.2f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "rate": ("users/s", ",.0f"),
    "times": ("times faster than user by user", ",.1f"),
}
ONE_BY_ONE = "datasets, user by user"

Read = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def readers(sequences: Sequences, *, length: int) -> dict[str, Read]:
    """Ways to read the last `length` events of users `(B,)` as `(B, L)`, padded on the right, by name."""
    dataset = Dataset.load_from_disk(str(sequences.folder))
    arrays = dataset.with_format("numpy")

    def padded(histories: list[NDArray[np.int64]] | list[list[int]]) -> NDArray[np.int64]:
        tails = [history[-length:] for history in histories]
        out = np.full((len(tails), max(len(tail) for tail in tails)), PAD, dtype=np.int64)
        for row, tail in enumerate(tails):
            out[row, : len(tail)] = tail
        return out

    return {
        ONE_BY_ONE: lambda rows: padded([dataset[int(row)]["items"] for row in rows]),
        "datasets, a batch of Python lists": lambda rows: padded(dataset[rows]["items"]),
        "datasets, a batch of numpy arrays": lambda rows: padded(list(arrays[rows]["items"])),
        "peterrec, gather from the mapped file": lambda rows: last_events(
            sequences, rows, max_length=length, readout="mean"
        ),
    }


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """One table; every round reads other users."""
    users, batch, length = (300, 16, 20) if conditions.quick else (USERS, BATCH, LENGTH)
    lengths = lognormal_lengths(users, median=MEDIAN, mean=MEAN, shortest=SHORTEST)
    with tempfile.TemporaryDirectory() as folder:
        flat = zipf_items((int(lengths.sum()),), vocabulary=ROWS, seed=0)
        sequences = write_sequences(Path(folder) / "train", flat, lengths)

        def call(read: Read) -> Callable[[], object]:
            drawn = np.random.default_rng(1)  # each reader draws the same users
            return lambda: read(drawn.integers(0, users, size=batch))

        timings = take_turns({name: call(read) for name, read in readers(sequences, length=length).items()}, conditions)
    rows = [
        {
            "who": name,
            **timing.figures(),
            "rate": batch / timing.median,
            "times": timings[ONE_BY_ONE].median / timing.median,
        }
        for name, timing in timings.items()
    ]
    notes = [
        f"{users:,} users, log-normal lengths (median {MEDIAN}, mean {MEAN}); {batch} users at random, their last "
        f"{length} events, padded, as one array."
    ]
    yield Table("Reading a batch", COLUMNS, rows, notes)
    machine.look("after the readers")
