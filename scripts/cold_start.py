"""Does a frozen encoder recommend in a new domain?  `python scripts/cold_start.py LOG ITEMS COLUMN=VALUE OUT`

LOG has the columns user, item and --time, ITEMS a row an item; the items whose COLUMN holds VALUE are the target
domain, all others the source domain. Prepares the source domain (without what users did after their last target event),
pretrains the default encoder on it, and compares adapters, full fine-tuning, a random encoder, training from scratch
and the baselines on three splits by user. Rows that cannot be used are left out. Finished parts in OUT are kept, so
that an interrupted run goes on. Writes OUT/cold_start.json and OUT/cold_start.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ADAPTERS = "serial,parallel,lora,none,full"
SEEDS = 3
FIGURES = ("hr@10", "ndcg@10", "mrr")
USE = ("coverage@10", "long_tail@10")


def run(*arguments: str) -> str:
    """Runs a command of peterrec, shown; returns it as text."""
    print("peterrec", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "peterrec", *arguments], check=True)
    return " ".join(["peterrec", *arguments])


def compared(
    log: Path, items: Path, *, rule: str, time: str, output: Path, rates: str, settings: list[str]
) -> dict[str, Any]:
    """metrics.json of the comparison in `output`, which is made unless it is there, and its command under `command`."""
    data, encoder, folder = (output / name for name in ("source", "encoder", "compare"))
    if not (data / "run.json").exists():
        arguments = ["--time", time, "--items", str(items), "--without-items", rule, "--before-target"]
        arguments += ["--split", "leave_one_out", "--bad-rows", "drop", "--output", str(data)]
        run("prepare", str(log), *arguments)
    if not (encoder / "run.json").exists():
        chosen = [word for setting in settings for word in ("--set", setting)]
        run("pretrain", str(data), "--output", str(encoder), *chosen)
    arguments = ["compare", "--task", "cold_start", "--source", str(log), "--items", str(items), "--target-items", rule]
    arguments += ["--time", time, "--bad-rows", "drop", "--encoder", str(encoder), "--adapters", ADAPTERS]
    arguments += ["--learning-rates", rates, "--seeds", str(SEEDS), "--output", str(folder)]
    if not (folder / "metrics.json").exists():
        run(*arguments)
    found = json.loads((folder / "metrics.json").read_text())
    return {**found, "command": " ".join(["peterrec", *arguments])}


def markdown(found: dict[str, Any]) -> str:
    """A row a contestant and baseline, and the first adapter's paired gain over each."""

    def number(of: dict[str, float], *, sign: str = "") -> str:
        return f"{of['value']:{sign}.3f} [{of['low']:{sign}.3f}, {of['high']:{sign}.3f}]"

    first = found["results"][0]["name"]
    gains = {(gain["over"], gain["metric"]): gain for gain in found["gains"] if gain["of"] == first}
    lines = [
        f"| | {' | '.join(FIGURES)} | {first} over it, HR@10 | NDCG@10 | coverage | long tail | seconds |",
        "|---" * (len(FIGURES) + 6) + "|",
    ]
    for result in found["results"]:
        name, metrics = result["name"], result["metrics"]
        cells = [number(metrics[figure]) for figure in FIGURES]
        over = [gains.get((name, figure)) for figure in ("hr@10", "ndcg@10")]
        cells += ["–" if gain is None else number(gain, sign="+") for gain in over]
        cells += [f"{metrics[figure]['value']:.3f}" for figure in USE]
        cells.append("–" if result.get("seconds") is None else f"{result['seconds']:.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prepares, pretrains, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path, help="events of both domains")
    parser.add_argument("items", type=Path, help="table of items")
    parser.add_argument("rule", help="COLUMN=VALUE of the target items")
    parser.add_argument("output", type=Path, help="folder of the runs and of the tables")
    parser.add_argument("--time", default="time", help="column of the time")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the pretraining")
    parser.add_argument("--learning-rates", default="2e-3,8e-3", help="the search of each contestant, as in compare")
    arguments = parser.parse_args()
    found = compared(
        arguments.log,
        arguments.items,
        rule=arguments.rule,
        time=arguments.time,
        output=arguments.output,
        rates=arguments.learning_rates,
        settings=arguments.settings,
    )
    kept = ("protocol", "command", "seeds", "results", "gains", "notes")
    written = {key: found[key] for key in kept}
    written["results"] = [{key: value for key, value in row.items() if key != "curves"} for row in found["results"]]
    (arguments.output / "cold_start.json").write_text(json.dumps(written, indent=1) + "\n")
    (arguments.output / "cold_start.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
