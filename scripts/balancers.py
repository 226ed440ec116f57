"""Every balancer on one recipe: `python scripts/balancers.py OUT --data DATA --task TASK [--encoder RUN] [--seeds N]`

One `peterrec compare` in OUT/compare, which goes on where it was interrupted; the table (AUC with 95 % intervals, gains
over the plain sum, seconds and peak memory of a training, mean weights in the last epoch) is printed and written to
OUT/balancers.md, all figures to OUT/balancers.json. Methods whose packages are not installed are left out, and named.
Seconds are those of this machine; memory is the highest of the process while it trained.
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

from comparison import compared

from peterrec.balancing.methods import Balanced, make_balancer
from peterrec.balancing_recipe import BalancerName, Balancing
from peterrec.errors import SettingsError
from peterrec.metrics.measure_name import MeasureName

ALL: tuple[BalancerName, ...] = tuple(name for name in get_args(BalancerName) if name != "static")


def installed(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Those of the balancers `names` that can be made here, and why the others cannot."""
    found, missing = [], []
    for name in names:
        try:
            if name != "sum":
                make_balancer(name, Balanced(("a", "b"), (False, False), 1), options=Balancing())  # type: ignore[arg-type]
            found.append(name)
        except SettingsError as problem:
            missing.append(str(problem))
    return found, missing


def last_weights(curves: list[dict[str, Any]], name: str) -> dict[str, float]:
    """The mean weight of each objective in the last epoch, over seeds."""
    last: dict[Any, dict[str, float]] = {}
    for entry in curves:
        if entry.get("name", name) == name and entry.get("weights"):
            last[entry.get("seed")] = entry["weights"]
    names = dict.fromkeys(key for one in last.values() for key in one)
    return {key: sum(one.get(key, 1.0) for one in last.values()) / len(last) for key in names}


def table(metrics: dict[str, Any]) -> str:
    """A Markdown table: a line a balancer, a column an output; AUC of probabilities, RMSE of values."""
    models = [row for row in metrics["results"] if row["role"] == "model"]
    names = [MeasureName.parse(name) for name in models[0]["metrics"]]
    shown = [str(one) for one in names if one is not None and one.domain is None and one.measure in ("auc", "rmse")]
    main, first = metrics["metric"], models[0]["name"]
    gains = {row["over"]: row for row in metrics["gains"] if row["metric"] == main and row["of"] == first}
    lines = [
        "| balancer | " + " | ".join(shown) + f" | {main} − sum | s a seed | peak MiB | weights at the end |",
        "|" + "---|" * (len(shown) + 5),
    ]
    for row in models:
        figures = []
        for name in shown:
            one = row["metrics"][name]
            figures.append(f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]")
        gain = gains.get(row["name"])
        # told of the sum over this one
        over = "–" if gain is None else f"{-gain['value']:+.4f} [{-gain['high']:+.4f}, {-gain['low']:+.4f}]"
        memory = row.get("peak_memory_bytes")
        weights = last_weights(metrics["curves"], row["name"])
        cells = [
            row["name"].partition("+")[2] or "sum",
            *figures,
            over,
            f"{row['seconds']:.1f}",
            "–" if memory is None else f"{memory / 2**20:,.0f}",
            ", ".join(f"{key} {value:.3g}" for key, value in weights.items()) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="impressions that `peterrec prepare` has prepared")
    parser.add_argument("--task", default="shared_bottom")
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--balancers", default=",".join(ALL), help="separated by commas; the sum always stands first")
    parser.add_argument("--set", action="append", default=[], help="a training setting, key=value")
    asked = parser.parse_args()
    wanted = tuple(name for name in asked.balancers.split(",") if name and name != "sum")
    names, missing = installed(("sum", *wanted))
    for text in missing:
        print(f"Left out: {text}")
    metrics = compared(
        (asked.task,),
        asked.data,
        encoder=asked.encoder,
        output=asked.output / "compare",
        seeds=asked.seeds,
        overrides=asked.set,
        balancers=names,
    )
    text = table(metrics)
    (asked.output / "balancers.md").write_text(text, encoding="utf-8")
    kept = {key: metrics[key] for key in ("protocol", "metric", "results", "gains", "curves")}
    (asked.output / "balancers.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
