"""The training step: the product beside a naive NextItNet and RecBole's, on full histories."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import recbole_peer
from benchmarks.conditions import GIB, Conditions
from benchmarks.machine import Machine
from benchmarks.memory import Memory, extra_memory, problems
from benchmarks.naive_nextitnet import NaiveStep
from benchmarks.peterrec_step import NEGATIVES, PeterrecStep, full_histories
from benchmarks.process_steps import ProcessesStep
from benchmarks.recbole_peer import RecBoleStep
from benchmarks.stopwatch import Timing, take_turns
from benchmarks.tables import Table
from benchmarks.workload import Workload

POSITIONS = 12_800
VOCABULARIES = (3_700, 50_000, 1_000_000)
LENGTHS = (50, 200)
CHANNELS = (64, 128)
DROPOUT = 0.2
MOST_FLOPS = 1e12  # of a step; more would take minutes
SMALLEST_SHARE = 1 / 16  # of the batch that a peer must at least be able to hold

Step = PeterrecStep | ProcessesStep | NaiveStep | RecBoleStep

TITLE = "Training step"
GROWTH = "The step as the catalogue grows, taking turns"
COLUMNS = {
    "workload": ("workload", ""),
    "who": ("step", ""),
    "users": ("users", ",.0f"),
    "rate": ("targets/s", ",.0f"),
    "ms": ("ms", ",.1f"),
    "ms_min": ("min", ",.1f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "gflops": ("GF/s", ",.1f"),
    "share": ("of GEMM", ".2f"),
    "memory_mb": ("peak MB", ",.0f"),
    "over_naive": ("× naive", ",.2f"),
    "over_recbole": ("× RecBole", ",.1f"),
}
LABELS = {
    "exact": "peterrec, exact softmax",
    "processes": "peterrec, exact softmax, a process a thread",
    "sampled": "peterrec, shared negatives",
    "naive": "naive torch",
    "recbole": "RecBole 1.2.1, one target a row",
}
NOTES = (
    "A step is forward, loss, backward and update in float32 (unless said) on full histories of Zipf items. "
    "**peterrec**: the product's loop, from the mapped file on, no clipping; *a process a thread*: the same batch by "
    "as many processes, as under torchrun, the sum of gradients included. "
    "**naive torch**: Conv2d 1 × 3 on NCHW, stock layer norm, all logits at once, stock cross-entropy over all rows, "
    "default Adam; the next item at every position, tied table, as the product; its batches lie in memory. "
    "**RecBole**: its NextItNet and `calculate_loss` from PyPI, default Adam; it learns one target from each augmented "
    "prefix, so a whole history costs it as many rows as it has events; its data pipeline is not timed.",
    f"Shared negatives ({NEGATIVES:,} of them, at most V / 3) are another objective than the others' softmax over all "
    "rows. Tables of up to 100,000 rows get fused AdamW, larger ones under shared negatives lazy Adam, as by default.",
    "GF/s counts useful operations: 18 · D² · convolutions a position, and 6 · V · D a target (6 · K · D for K shared "
    "negatives). Peak MB: memory at the peak beyond that of the process before, parameters and optimiser's state "
    "included, each case in a process of its own. Ratios are of targets/s by medians.",
)


@dataclass(frozen=True)
class Case:
    """Who makes the step (a key of `LABELS`), and on what."""

    who: str
    workload: Workload
    dropout: float = 0.0

    @property
    def label(self) -> str:
        return LABELS[self.who] + (f", dropout {self.dropout:g}" if self.dropout else "")

    def open(self, conditions: Conditions, *, folder: Path) -> Step:
        """The step, ready to be called; the product's data go into a new folder in `folder`."""
        if self.who == "naive":
            return NaiveStep(self.workload, conditions, dropout=self.dropout)
        if self.who == "recbole":
            module = recbole_peer.load()
            assert module is not None
            return RecBoleStep(self.workload, conditions, module=module)
        if self.who == "processes":
            own = Path(tempfile.mkdtemp(dir=folder))
            return ProcessesStep(self.workload, conditions, folder=own, dropout=self.dropout)
        train = full_histories(self.workload, Path(tempfile.mkdtemp(dir=folder)) / "train")
        softmax = "sampled" if self.who == "sampled" else "exact"
        return PeterrecStep(self.workload, conditions, train=train, softmax=softmax, dropout=self.dropout)


def cases_of(workload: Workload, conditions: Conditions) -> tuple[list[Case], list[str]]:
    """Who takes part on a workload, and notes on those who do not or not with the whole batch."""
    cases, notes = [], []
    work = workload.positions * (workload.convolution_flops() + workload.softmax_flops())
    if work <= MOST_FLOPS:
        cases.append(Case("exact", workload))
        if conditions.device == "cpu" and conditions.threads > 1 and conditions.clock == "wall":
            cases.append(Case("processes", workload))
    else:
        notes.append(f"{workload}: the exact softmax is left out, {work:.1e} operations a step.")
    cases.append(Case("sampled", workload))
    each = workload.bytes_of_logits(workload.length)
    users = min(workload.users, conditions.memory // each)
    if users < SMALLEST_SHARE * workload.users:
        notes.append(
            f"{workload}: naive torch does not fit; its logits would take {each * workload.users / GIB:,.0f} GiB for "
            f"{workload.users} users."
        )
    else:
        cases.append(Case("naive", replace(workload, users=users)))
        if users < workload.users:
            notes.append(
                f"{workload}: naive torch has {users} users a step, whose logits fit in "
                f"{conditions.memory / GIB:g} GiB."
            )
    if recbole_peer.load() is not None:
        size = workload.bytes_of_logits(workload.users)
        if size <= conditions.memory:
            cases.append(Case("recbole", workload))
        else:
            notes.append(f"{workload}: RecBole does not fit; its logits would take {size / GIB:,.0f} GiB.")
    return cases, notes


def measure(cases: list[Case], conditions: Conditions, machine: Machine, *, folder: Path) -> list[dict[str, Any]]:
    """A row a case; all take turns."""
    steps = {case: case.open(conditions, folder=folder) for case in cases}
    timings = take_turns(steps, conditions)
    rows = [_row(case, step, timings[case]) for case, step in steps.items()]
    for step in steps.values():
        if isinstance(step, ProcessesStep):
            step.close()
    steps.clear()
    machine.look(f"after {cases[-1].workload}")
    for case, row in zip(cases, rows, strict=True):
        # a child process is watched, not children of its own
        row |= (Memory(None) if case.who == "processes" else extra_memory(case, conditions)).figures()
    _compare(rows)
    return rows


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """A table a length and width, and one of what the size of the catalogue does to a sampled step."""
    shapes = [(VOCABULARIES, Workload(0, length, d, POSITIONS // length)) for length in LENGTHS for d in CHANNELS]
    if conditions.quick:
        shapes = [((300, 900), Workload(0, 12, 16, 8, 4))]
    notes: list[str] = list(NOTES)
    if recbole_peer.load() is None:
        notes.append("RecBole cannot be imported here; scripts/README.md says how to install it.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for vocabularies, shape in shapes:
            rows: list[dict[str, Any]] = []
            for vocabulary in vocabularies:
                workload = replace(shape, vocabulary=vocabulary)
                cases, left_out = cases_of(workload, conditions)
                if shape == shapes[0][1] and vocabulary == vocabularies[0]:
                    cases += [Case(who, workload, dropout=DROPOUT) for who in ("exact", "naive")]
                rows += measure(cases, conditions, machine, folder=folder)
                notes += left_out
            title = f"{TITLE}, L = {shape.length}, D = {shape.channels}"
            yield Table(title, COLUMNS, machine.shares(rows), notes + problems(rows))
            notes = []
        vocabularies, shape = shapes[0]
        growth = [Case("sampled", replace(shape, vocabulary=vocabulary)) for vocabulary in vocabularies]
        rows = measure(growth, conditions, machine, folder=folder)
        yield Table(GROWTH, COLUMNS, machine.shares(rows), problems(rows))


def _row(case: Case, step: Step, timing: Timing) -> dict[str, Any]:
    return {
        **asdict(case),
        "workload": str(case.workload),
        "vocabulary": case.workload.vocabulary,
        "length": case.workload.length,
        "channels": case.workload.channels,
        "who": case.label,
        "peer": case.who,
        "users": case.workload.users,
        "targets": step.targets,
        "rate": step.targets / timing.median,
        "rate_best": step.targets / timing.least,
        **timing.figures(),
        "gflops": step.flops / timing.median / 1e9,
    }


def _compare(rows: list[dict[str, Any]]) -> None:
    """Adds the ratios to the peers with the same dropout (RecBole's has none)."""
    for row in rows:
        for peer in ("naive", "recbole"):
            dropout = row["dropout"] if peer == "naive" else 0.0
            others = [other for other in rows if other["peer"] == peer and other["dropout"] == dropout]
            row[f"over_{peer}"] = row["rate"] / others[0]["rate"] if others and others[0] is not row else None
            row[f"over_{peer}_best"] = row["rate_best"] / others[0]["rate_best"] if row[f"over_{peer}"] else None
