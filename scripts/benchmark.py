"""How fast training and serving are: the product beside public and naive implementations, in one run.

    python scripts/benchmark.py --threads 2 --out benchmark.json > benchmark.md

Prints Markdown tables, with the conditions above and the project's bars below; `--out` writes all figures as JSON.
Times are medians of rounds in which all variants take turns in one process; `min` is the shortest, `spread` the longest
less the shortest as a share of the median, `n` the number of rounds. Run it on an idle machine.

RecBole is an optional peer: `pip install "peterrec[benchmark]"` (see scripts/README.md). Without it the tables say so.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks import bars, epochs, loaders, softmax_heads, steps, table_updates, top_k, user_updates
from benchmarks.conditions import GIB, Conditions
from benchmarks.machine import Machine, facts
from benchmarks.tables import Table

from peterrec.atomic import atomic_file
from peterrec.errors import PeterrecError

Section = Callable[[Conditions, Machine], Iterator[Table]]
SECTIONS: dict[str, Section] = {
    "step": steps.run,
    "head": softmax_heads.run,
    "tables": table_updates.run,
    "epoch": epochs.run,
    "update": user_updates.run,
    "top_k": top_k.run,
    "loader": loaders.run,
}


def main(arguments: list[str] | None = None) -> None:
    """Reads the options, measures, prints, writes."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds of rounds of each comparison")
    parser.add_argument("--memory", type=float, default=4.0, help="GiB that a peer's logits may take")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: this process's processor time")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where everything runs")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of all variants")
    parser.add_argument("--data", default=None, help="prepared folder whose histories the epoch takes")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does it run, not how fast")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    given = parser.parse_args(arguments)
    if given.threads < 1 or given.budget < 0 or given.memory <= 0:
        parser.error("--threads must be >= 1, --budget >= 0 and --memory > 0.")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda, but torch sees no CUDA device here.")
    if given.device == "cuda" and given.clock == "cpu":
        parser.error("--clock cpu says nothing about a GPU; leave it at wall.")
    torch.set_num_threads(given.threads)
    conditions = Conditions(
        threads=given.threads,
        device=given.device,
        precision=given.precision,
        clock=given.clock,
        budget=0.0 if given.quick else given.budget,
        memory=int(given.memory * GIB),
        quick=given.quick,
        data=given.data,
    )
    try:
        measure(conditions, given.only, out=given.out)
    except PeterrecError as problem:
        parser.error(str(problem))


def measure(conditions: Conditions, sections: list[str], *, out: Path | None) -> dict[str, Any]:
    """Runs the sections, prints each table as soon as it is there, and returns what the JSON file holds."""
    known = facts(conditions)
    print("## Conditions\n")
    for name, value in known.items():
        print(f"* {name.replace('_', ' ')}: {value:,.2f}" if isinstance(value, float) else f"* {name}: {value}")
    if conditions.quick:
        print("* tiny shapes: none of these figures says how fast anything is")
    print()
    machine = Machine(conditions)
    machine.look("at the start")
    found: dict[str, list[Table]] = {}
    for name in sections:
        print(f"{name} …", file=sys.stderr, flush=True)
        found[name] = []
        for table in SECTIONS[name](conditions, machine):
            found[name].append(table)
            print(table.markdown(), flush=True)
    rows = {table.title: table.rows for tables in found.values() for table in tables}
    closing = [machine.table(), bars.table(rows, threads=conditions.threads, load=known["load_before"])]
    for table in closing:
        print(table.markdown())
    result = {
        "conditions": {**asdict(conditions), **known},
        "sections": {name: [table.to_json() for table in tables] for name, tables in found.items()},
        "machine": machine.looks,
        "bars": list(closing[1].rows),
    }
    if out is not None:
        with atomic_file(out) as temporary:
            temporary.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return result


if __name__ == "__main__":
    main()
