"""What the exact short cuts of fine-tuning and serving save: each beside the long way, in one run, with ratios.

    python scripts/bench_adapters.py --data runs/world --encoder runs/encoder --output runs/bench.json

1. The head alone on user vectors computed once, against full fine-tuning, for the same epochs.
2. Patches in the top half of the blocks on states computed once, against full fine-tuning and against computing them
   in each step.
3. The readout of the last position, computing only what it depends on, against computing every position.
4. A batch of users of eight adapters in one pass, against a pass a model and against a pass a `set_adapter`.

Each figure is the median of `--repeats` (of a training that nothing precedes: one).
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter_measurements import ADAPTERS, SERVED, Bench, last_position, mixed_batch, trainings
from rich.console import Console
from rich.table import Table

from peterrec.atomic import atomic_file
from peterrec.data.attribute import read_attribute
from peterrec.data.prepared import open_prepared
from peterrec.encoders.loading import load_encoder
from peterrec.inference import choose_device

# (title, what is measured, [(long way, short way, the bar that the project set, if any)])
COMPARISONS = [
    (
        "1, 2. Training",
        trainings,
        [
            ("full fine-tuning", "head, vectors computed once", 100.0),
            ("full fine-tuning", "head, and computing them", None),
            ("full fine-tuning", "top half, states computed once", 3.0),
            ("full fine-tuning", "top half, and computing them", None),
            ("top half, computed in each step", "top half, states computed once", None),
        ],
    ),
    (
        "3. The last position",
        last_position,
        [
            (f"{what}, every position", f"{what}, what the last one depends on", None)
            for what in ("training", "predicting")
        ],
    ),
    (
        f"4. A batch of {ADAPTERS} adapters",
        mixed_batch,
        [
            (f"{ADAPTERS} passes, one a {kind}, {size}", f"one mixed pass, {size}", None)
            for size in (f"{ADAPTERS * users} users" for users in SERVED)
            for kind in ("model", "set_adapter")
        ],
    ),
]


def measure(bench: Bench, console: Console) -> list[dict[str, Any]]:
    """All comparisons, each printed as soon as it is done."""
    results = []
    for title, seconds_of, pairs in COMPARISONS:
        seconds = seconds_of(bench)
        table = Table("the long way", "seconds", "the short way", "seconds", "times faster", "bar", title=title)
        for long_way, short_way, bar in pairs:
            ratio = seconds[long_way] / seconds[short_way]
            figures = (seconds[long_way], seconds[short_way], ratio)
            shown = [f"{figure:.4g}" for figure in figures]
            table.add_row(long_way, shown[0], short_way, shown[1], shown[2], "" if bar is None else f"{bar:g}")
            results.append(
                {
                    "comparison": title,
                    "long_way": long_way,
                    "long_seconds": figures[0],
                    "short_way": short_way,
                    "short_seconds": figures[1],
                    "ratio": ratio,
                    "bar": bar,
                }
            )
        console.print(table)
    return results


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line, measures, prints, and writes `--output`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/world"), help="prepared folder with labelled users")
    parser.add_argument("--encoder", type=Path, default=Path("runs/encoder"), help="folder of the pretrained encoder")
    parser.add_argument("--column", default="gender", help="label column in the table of users")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each training")
    parser.add_argument("--users", type=int, default=64, help="users of a training batch")
    parser.add_argument("--max-length", type=int, default=None, help="events read; the encoder's own by default")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of which the median is taken")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--output", type=Path, default=None, help="JSON file to write")
    given = parser.parse_args(arguments)
    for name, folder, made_by in (("data", given.data, "prepare"), ("encoder", given.encoder, "pretrain")):
        if not (folder / "run.json").is_file():
            parser.error(
                f"--{name} {folder} is no finished folder; make one with `peterrec {made_by}` or name another."
            )
    prepared = open_prepared(given.data)
    encoder = load_encoder(given.encoder)
    bench = Bench(
        encoder=encoder,
        histories=prepared.sequences("histories"),
        attribute=read_attribute(prepared, column=given.column),
        epochs=given.epochs,
        users=given.users,
        max_length=given.max_length or encoder.config.max_length,
        repeats=given.repeats,
        device=choose_device(given.device),
    )
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else platform.processor() or platform.machine()
    facts = {
        "device": f"{bench.device.type} ({name})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "users": len(bench.attribute),
        "mean_events": float(np.minimum(bench.histories.lengths[bench.attribute.rows], bench.max_length).mean()),
        "max_length": bench.max_length,
        "receptive_field": encoder.config.receptive_field,
        "hidden_size": encoder.config.hidden_size,
        "dilations": list(encoder.config.dilations),
        "epochs": bench.epochs,
        "batch_users": bench.users,
        "repeats": bench.repeats,
    }
    console = Console()
    console.print("  ".join(f"{key} {value}" for key, value in facts.items()), highlight=False)
    results = measure(bench, console)
    if given.output is not None:
        with atomic_file(given.output) as temporary:
            temporary.write_text(json.dumps({"setting": facts, "results": results}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
