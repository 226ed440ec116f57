"""The training step on a GPU: how fast, how near to what the device can do, and whether it ever waits.

    python scripts/bench_gpu.py --output gpu.json > gpu.md

For widths D and catalogues V, on full histories of Zipf items in bf16: the product's step, as it is and compiled into
CUDA graphs, beside an eager NextItNet written without thinking of speed (Conv2d, stock layer norm, all logits, default
Adam; under autocast too, its batches in host memory). One after the other, since large tables do not fit beside each
other; figures are medians.

"of matrix rate" is useful operations a second as a share of this device's own best square product, and "of bandwidth"
the bytes that a step must move at least, a second, as a share of its own copy. Whichever is larger is the limit that
the step is near to; where both are small, the host is what it waits for. The least bytes: of each convolution its input
and output forward, and the output's gradient, the saved input and the input's gradient backward; the states and their
gradients in the head; and of the parameters that AdamW updates (looked-up rows alone, where updates are lazy) weight,
gradient and two moments read, weight and moments written.
"""

import argparse
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.conditions import GIB, Conditions
from benchmarks.machine import Machine, facts
from benchmarks.naive_nextitnet import NaiveStep
from benchmarks.peterrec_step import PeterrecStep, Softmax, full_histories, negatives_of
from benchmarks.stopwatch import seconds_of, take_turns
from benchmarks.tables import Table
from benchmarks.workload import Workload

from peterrec.atomic import atomic_file

CHANNELS = (64, 128, 256)
VOCABULARIES = (4_000, 100_000, 1_000_000, 10_000_000)
MOST_EXACT = 100_000  # rows; beyond, a step with the exact softmax says nothing but how large the catalogue is
POSITIONS = (12_800, 102_400)
LENGTH = 50
WATCHED = 3  # steps in which torch reports whatever waits for the device

COLUMNS = {
    "workload": ("workload", ""),
    "positions": ("positions", ",.0f"),
    "who": ("step", ""),
    "rate": ("targets/s", ",.0f"),
    "ms": ("ms", ",.2f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "tflops": ("TF/s", ",.1f"),
    "of_matrix": ("of matrix rate", ".2f"),
    "of_bandwidth": ("of bandwidth", ".2f"),
    "memory_gb": ("peak GB", ",.2f"),
    "first": ("first step s", ",.1f"),
    "waits": ("waits", ""),
    "over_naive": ("× naive", ",.2f"),
}


def least_bytes(workload: Workload, step: PeterrecStep, *, softmax: Softmax, size: int) -> float:
    """What a step must read and write, with activations of `size` bytes a number; see the top of this file."""
    positions, channels = workload.positions, workload.channels
    activations = (5 * workload.convolutions + 4) * positions * channels * size
    parameters = list(step.encoder.parameters())
    dense = sum(p.numel() for p in parameters)
    rows = 0
    if step.encoder.sparse_rows:
        dense -= step.encoder.embed_tokens.weight.numel()
        rows = min(workload.vocabulary, 2 * positions + negatives_of(workload.vocabulary)) * channels
    scored = negatives_of(workload.vocabulary) if softmax == "sampled" else workload.vocabulary
    return activations + 7 * 4 * (dense + rows) + 3 * scored * channels * size


def fits(workload: Workload, conditions: Conditions, *, softmax: Softmax) -> bool:
    """Whether table, moments and (of a dense update) gradient are at most 80 % of the memory."""
    copies = 3 if softmax == "sampled" else 4
    return 4 * copies * workload.vocabulary * workload.channels < 0.8 * conditions.memory


def waits(step: PeterrecStep) -> str | None:
    """Whether torch sees a step wait for the device: "never", or for what; None where there is none to wait for."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(WATCHED):
            step()
    except RuntimeError as problem:
        return str(problem).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "never"


def steps_of(
    workload: Workload, conditions: Conditions, *, compiled: bool, folder: Path
) -> Iterator[tuple[str, Softmax | None, Callable[[], Any]]]:
    """What is measured on a workload: its name, its softmax (None: the peer), and what makes it."""
    train = full_histories(workload, folder / "train")
    softmaxes: tuple[Softmax, ...] = ("exact", "sampled") if workload.vocabulary <= MOST_EXACT else ("sampled",)
    for softmax in softmaxes:
        if fits(workload, conditions, softmax=softmax):
            make = partial(PeterrecStep, workload, conditions, train=train, softmax=softmax)
            yield f"peterrec, {softmax}", softmax, make
            if compiled:
                yield f"peterrec, {softmax}, compiled", softmax, partial(make, compiled=True)
    users = min(workload.users, conditions.memory // (2 * workload.bytes_of_logits(workload.length)))
    if users:
        yield f"naive, {users} users", None, partial(NaiveStep, replace(workload, users=users), conditions)


def measure(
    workload: Workload, conditions: Conditions, machine: Machine, *, compiled: bool, folder: Path
) -> list[dict[str, Any]]:
    """A row for each of `steps_of`."""
    rows = [
        row_of(workload, conditions, machine, who=who, softmax=softmax, make=make)
        for who, softmax, make in steps_of(workload, conditions, compiled=compiled, folder=folder)
    ]
    naive = next((row["rate"] for row in rows if row["softmax"] is None), None)
    for row in rows:
        row["over_naive"] = row["rate"] / naive if naive and row["softmax"] else None
    return rows


def row_of(
    workload: Workload,
    conditions: Conditions,
    machine: Machine,
    *,
    who: str,
    softmax: Softmax | None,
    make: Callable[[], Any],
) -> dict[str, Any]:
    """The figures of one step, which is gone afterwards."""
    gc.collect()
    if conditions.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = make()
    first = seconds_of(step, conditions)
    waited = None if softmax is None else waits(step)
    timing = take_turns({who: step}, conditions)[who]
    moved = None
    if softmax is not None:
        moved = least_bytes(workload, step, softmax=softmax, size=2 if conditions.precision == "bf16" else 4)
    return {
        "workload": str(workload),
        "vocabulary": workload.vocabulary,
        "channels": workload.channels,
        "positions": workload.positions if softmax else step.targets,
        "who": who,
        "softmax": softmax,
        "targets": step.targets,
        **timing.figures(),
        "first": first,
        "waits": waited,
        "rate": step.targets / timing.median,
        "tflops": step.flops / timing.median / 1e12,
        "of_matrix": step.flops / timing.median / machine.gemm,
        "bytes": moved,
        "of_bandwidth": moved and moved / timing.median / max(look["copy"] for look in machine.looks),
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if conditions.device == "cuda" else None,
    }


def run(conditions: Conditions, machine: Machine, *, compiled: bool) -> Iterator[Table]:
    """A table a width."""
    for channels in (16,) if conditions.quick else CHANNELS:
        rows = []
        for vocabulary in (200,) if conditions.quick else VOCABULARIES:
            for positions in (48,) if conditions.quick else POSITIONS:
                length = 12 if conditions.quick else LENGTH
                convolutions = 4 if conditions.quick else 16
                workload = Workload(vocabulary, length, channels, positions // length, convolutions)
                with tempfile.TemporaryDirectory() as folder:
                    rows += measure(workload, conditions, machine, compiled=compiled, folder=Path(folder))
        yield Table(f"Training step, D = {channels}, {conditions.precision}", COLUMNS, rows)


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, measures, prints, and writes `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to see that it runs")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16", help="of all variants")
    parser.add_argument(
        "--eager", action="store_true", help="without the compiled variants, which take minutes to make"
    )
    parser.add_argument("--budget", type=float, default=5.0, help="seconds of rounds of each workload")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it run, not how fast")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here", file=sys.stderr)
        sys.exit(2)
    memory = torch.cuda.mem_get_info()[1] if given.device == "cuda" else 2 * GIB
    conditions = Conditions(
        threads=torch.get_num_threads(),
        device=given.device,
        precision=given.precision,
        budget=given.budget,
        memory=memory,
        quick=given.quick,
    )
    machine = Machine(conditions)
    machine.look("before")
    known = facts(conditions)
    print("  ".join(f"{key} {value}" for key, value in known.items()), end="\n\n")
    tables = []
    for table in run(conditions, machine, compiled=not given.eager):
        print(table.markdown(), flush=True)
        tables.append(table)
    machine.look("after")
    print(machine.table().markdown())
    if given.output is not None:
        written = {"setting": known, "tables": [table.to_json() for table in [*tables, machine.table()]]}
        with atomic_file(given.output) as temporary:
            temporary.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
