"""Does a frozen encoder beat what a user would pick instead?  `python scripts/transfer.py DATA OUT`

DATA is a prepared folder with the columns gender and age (scripts/movielens.sh prepares MovieLens-1M). Pretrains the
encoder of `transfer/pooled.toml` on its histories without labels, then compares at 100, 300, 1,000 and all labels:
the frozen encoder with item deviations (adapters/items_convex.toml) and with a head alone, the former on random weights
as well, bag of items, LSA, majority; 20 draws of split and labels where labels are few, 5 with all. Last, the control:
the same with labels dealt out anew among the users. Finished parts in OUT are kept, so that an interrupted run goes
on. Writes OUT/transfer.json and OUT/transfer.md.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

HERE = Path(__file__).parent / "transfer"
TASKS = {"gender": "roc_auc", "age": "accuracy"}
LABELS: tuple[int | None, ...] = (100, 300, 1000, None)
FEW, ALL = 20, 5  # seeds: each draws split and labels anew
BASELINES = ("bag_of_items", "lsa")
ADAPTER, HEAD = "items_convex", "none"


def run(*arguments: str) -> str:
    """Runs a command of peterrec, shown; returns it as text."""
    print("peterrec", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "peterrec", *arguments], check=True)
    return " ".join(["peterrec", *arguments])


def compared(
    task: str, labels: int | None, *, encoder: Path, output: Path, data: Path | None = None, name: str = ""
) -> dict[str, Any]:
    """A row of the table: the frozen encoder beside the baselines on the same users, and paired differences.

    On the users of the prepared folder `data`, by default that of the encoder.
    """
    folder = output / f"{name}{task}_{labels or 'all'}"
    seeds = ALL if labels is None else FEW
    arguments = ["compare", "--task", str(HERE / f"{task}.toml"), "--encoder", str(encoder), "--adapters"]
    arguments += [f"{ADAPTER},{HEAD}"]
    arguments += ["--controls", "random", "--learning-rates", "recipe", "--seeds", str(seeds), "--output", str(folder)]
    arguments += [] if labels is None else ["--labels", str(labels)]
    arguments += [] if data is None else ["--data", str(data)]
    if not (folder / "metrics.json").exists():
        run(*arguments)
    found, metric = json.loads((folder / "metrics.json").read_text()), TASKS[task]
    values = {result["name"]: result["metrics"][metric] for result in found["results"]}
    gains = {gain["over"]: gain for gain in found["gains"] if gain["metric"] == metric and gain["of"] == ADAPTER}

    def interval(of: dict[str, Any]) -> dict[str, float]:
        return {key: of[key] for key in ("value", "low", "high")}

    return {
        "task": task,
        "labels": labels or "all",
        "metric": metric,
        "peterrec": interval(values[ADAPTER]),
        "head_alone": interval(values[HEAD]),
        **{name: interval(values[name]) for name in (*BASELINES, "majority")},
        "random_encoder": interval(values[f"random+{ADAPTER}"]),
        "paired_difference": {name: interval(gains[name]) for name in (*BASELINES, HEAD, f"random+{ADAPTER}")},
        "seeds": found["seeds"],
        "protocol": found["protocol"],
        "command": " ".join(["peterrec", *arguments]),
    }


def permuted(data: Path, output: Path) -> Path:
    """A copy of the prepared folder `data` in which each label has gone to another user, drawn at random."""
    if not (output / "users.parquet").exists():
        shutil.copytree(data, output, dirs_exist_ok=True, ignore=shutil.ignore_patterns("users.parquet"))
        table = pq.read_table(data / "users.parquet")
        random = np.random.default_rng(0)
        for task in TASKS:
            place = table.column_names.index(task)
            table = table.set_column(place, task, table[task].take(random.permutation(len(table))))
        pq.write_table(table, output / "users.parquet")
    return output


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people."""

    def number(of: dict[str, float], *, sign: str = "") -> str:
        return f"{of['value']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"

    lines = [
        "| task | labels | peterrec, frozen | head alone | bag of items | LSA-256 | random encoder | over bag | "
        "over LSA | over random |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = [row["peterrec"], row["head_alone"], *(row[name] for name in BASELINES), row["random_encoder"]]
        over = [row["paired_difference"][name] for name in (*BASELINES, f"random+{ADAPTER}")]
        cells = [*map(number, own), *(number(gain, sign="+") for gain in over)]
        metric = {"roc_auc": "ROC-AUC", "accuracy": "accuracy"}[row["metric"]]
        lines.append(f"| {row['task']}, {metric} | {row['labels']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Pretrains, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("output", type=Path, help="folder of the runs and of the tables")
    arguments = parser.parse_args()
    encoder = arguments.output / "encoder"
    if not (encoder / "run.json").exists():
        run("pretrain", str(arguments.data), "--output", str(encoder), "--config", str(HERE / "pooled.toml"))
    found: dict[str, list[dict[str, Any]]] = {"rows": [], "controls": []}

    def add(kind: str, row: dict[str, Any]) -> None:
        found[kind].append(row)
        (arguments.output / "transfer.json").write_text(json.dumps(found, indent=1) + "\n")
        told = markdown(found["rows"])
        told += "\nLabels dealt out anew:\n\n" + markdown(found["controls"]) if found["controls"] else ""
        (arguments.output / "transfer.md").write_text(told)

    for task in TASKS:
        for labels in LABELS:
            add("rows", compared(task, labels, encoder=encoder, output=arguments.output))
    data = permuted(arguments.data, arguments.output / "permuted")
    for labels in (100, None):
        add(
            "controls", compared("gender", labels, encoder=encoder, output=arguments.output, data=data, name="control_")
        )
    print((arguments.output / "transfer.md").read_text())


if __name__ == "__main__":
    main()
