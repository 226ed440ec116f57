"""Does a frozen encoder beat what a user would pick instead?  `python scripts/transfer.py DATA OUT`

DATA is a prepared folder with the columns gender and age (scripts/movielens.sh prepares MovieLens-1M). Pretrains the
encoder of `transfer/pooled.toml` on its histories without labels, then compares at 100, 300, 1,000 and all labels:
a head on the frozen encoder, the same on random weights, bag of items, LSA, majority; 20 draws of split and labels
where labels are few, 5 with all. Finished parts in OUT are kept, so that an interrupted run goes on. Writes
OUT/transfer.json and OUT/transfer.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "transfer"
TASKS = {"gender": "roc_auc", "age": "accuracy"}
LABELS: tuple[int | None, ...] = (100, 300, 1000, None)
FEW, ALL = 20, 5  # seeds: each draws split and labels anew
BASELINES = ("bag_of_items", "lsa")
ADAPTER = "none"


def run(*arguments: str) -> str:
    """Runs a command of peterrec, shown; returns it as text."""
    print("peterrec", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "peterrec", *arguments], check=True)
    return " ".join(["peterrec", *arguments])


def compared(task: str, labels: int | None, *, encoder: Path, output: Path) -> dict[str, Any]:
    """A row of the table: the frozen encoder beside the baselines on the same users, and paired differences."""
    folder = output / f"{task}_{labels or 'all'}"
    seeds = ALL if labels is None else FEW
    arguments = ["compare", "--task", str(HERE / f"{task}.toml"), "--encoder", str(encoder), "--adapters", ADAPTER]
    arguments += ["--controls", "random", "--learning-rates", "recipe", "--seeds", str(seeds), "--output", str(folder)]
    arguments += [] if labels is None else ["--labels", str(labels)]
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
        **{name: interval(values[name]) for name in (*BASELINES, "majority")},
        "random_encoder": interval(values[f"random+{ADAPTER}"]),
        "paired_difference": {name: interval(gains[name]) for name in (*BASELINES, f"random+{ADAPTER}")},
        "seeds": found["seeds"],
        "protocol": found["protocol"],
        "command": " ".join(["peterrec", *arguments]),
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people."""

    def number(of: dict[str, float], *, sign: str = "") -> str:
        return f"{of['value']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"

    lines = [
        "| task | labels | peterrec, frozen | bag of items | LSA-256 | random encoder | over bag | over LSA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        own = [row["peterrec"], *(row[name] for name in BASELINES), row["random_encoder"]]
        over = [row["paired_difference"][name] for name in BASELINES]
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
    rows = []
    for task in TASKS:
        for labels in LABELS:
            rows.append(compared(task, labels, encoder=encoder, output=arguments.output))
            (arguments.output / "transfer.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")
            (arguments.output / "transfer.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
