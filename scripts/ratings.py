"""Ratings of MovieLens-1M: Koren's family, scikit-surprise, and the multi-task model on the same rows.

    python scripts/ratings.py OUT --known DATA [--new DATA] [--encoder RUN] [--seeds N] [--peers NAMES]

`scripts/impression_data.py movielens-ratings` makes the tables and prints how they are prepared: DATA of known users
(test rows drawn from all rows) and of new ones (whole users). Each set is a `peterrec compare` of the tasks `ratings`
in OUT, whose baselines are the models of ratings; it goes on where it was interrupted. scikit-surprise, where it is
installed, learns from the same training rows (its SVDpp takes half an hour a seed). OUT/tables.md has the tables,
OUT/ratings.json all figures.
"""

import argparse
import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from comparison import compared

from peterrec.data.impressions.impressions import open_impressions
from peterrec.metrics.impression_rows import ImpressionRows, MeasuredOutput, replicates_of
from peterrec.metrics.intervals import metric_intervals

TASK = "ratings"
# their defaults but for SVDpp, whose default of 20 factors is kept: as their documentation measures them
SURPRISE = ("BaselineOnly", "KNNBaseline", "SVD", "SVDpp")


def of_surprise(data: Path, *, names: tuple[str, ...], seeds: int) -> list[dict[str, Any]]:
    """RMSE of scikit-surprise's models `names` on the same test rows, learned from the same training rows."""
    import surprise

    impressions = open_impressions(data)
    rating = impressions.labels["rating"].astype(np.float64)
    low, high = float(np.nanmin(rating)), float(np.nanmax(rating))
    found = []
    for name in names:
        options: dict[str, Any] = {"verbose": False}
        if name == "KNNBaseline":
            options["sim_options"] = {"name": "pearson_baseline", "user_based": False}
        measured, seconds = [], 0.0
        for seed in range(seeds):
            split = impressions.split(seed)
            started = time.perf_counter()
            raw = [
                (user, item, value, None)
                for user, item, value in zip(
                    impressions.user[split.train].tolist(),
                    impressions.item[split.train].tolist(),
                    rating[split.train].tolist(),
                    strict=True,
                )
            ]
            train = surprise.Dataset(surprise.Reader(rating_scale=(low, high))).construct_trainset(raw)
            random = {"random_state": seed} if name.startswith("SVD") else {}
            model = getattr(surprise, name)(**options, **random)
            model.fit(train)
            seconds += time.perf_counter() - started
            test = split.test
            pairs = zip(impressions.user[test].tolist(), impressions.item[test].tolist(), strict=True)
            told = np.array([model.predict(user, item).est for user, item in pairs])
            output = MeasuredOutput(rating[test], told, np.ones(len(test), dtype=bool), "value")
            domains = np.full(len(test), -1)
            measured.append(ImpressionRows(impressions.user[test], domains, (), {"rating": output}))
        metrics = metric_intervals(measured, replicates=replicates_of(measured))
        found.append({"name": f"surprise {name}", "role": "peer", "metrics": metrics, "seconds": seconds / seeds})
    return found


def tables(metrics: dict[str, Any], *, title: str) -> str:
    """Markdown: RMSE of the rating by model, the gains of the first model, AUC of what is a probability."""
    results = metrics["results"]
    lines = [f"## {title}", "", metrics["protocol"], "", "| model | RMSE | seconds |", "|---|---|---|"]
    rated = [one for one in results if "rating/rmse" in one["metrics"]]
    for one in sorted(rated, key=lambda one: one["metrics"]["rating/rmse"]["value"]):
        lines.append(f"| `{one['name']}` | {_figure(one['metrics']['rating/rmse'], 4)} | {one['seconds']:,.0f} |")
    first = results[0]["name"]
    lines += ["", f"| `{first}` over | RMSE (less is better) |", "|---|---|"]
    for gain in metrics["gains"]:
        if gain["metric"] == "rating/rmse" and gain["of"] == first:
            lines.append(f"| `{gain['over']}` | {_figure(gain, 4, sign='+')} |")
    outputs = [name.removesuffix("/auc") for name in results[0]["metrics"] if name.endswith("/auc")]
    models = [
        one for one in results if one["role"] in ("model", "control", "baseline") and "mean/auc" in one["metrics"]
    ]
    lines += [
        "",
        "| AUC | " + " | ".join(f"`{one['name']}`" for one in models) + " |",
        "|---" * (len(models) + 1) + "|",
    ]
    for output in outputs:
        cells = [_figure(one["metrics"].get(f"{output}/auc"), 3) for one in models]
        lines.append(f"| {output} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _figure(found: dict[str, Any] | None, digits: int, *, sign: str = "") -> str:
    if found is None:
        return "–"
    value, low, high = (f"{found[key]:{sign}.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def main() -> None:
    """Runs what was asked for and writes tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT")
    parser.add_argument("--known", type=Path, required=True, help="prepared: rows of known users are tested")
    parser.add_argument("--new", type=Path, help="prepared: new users are tested")
    parser.add_argument("--encoder", type=Path, help="a pretrained encoder, for data prepared with --history")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--peers",
        nargs="*",
        default=SURPRISE,
        choices=SURPRISE,
        metavar="NAME",
        help=f"models of scikit-surprise: {', '.join(SURPRISE)}",
    )
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    text = ""
    for name, data in (("known users", arguments.known), ("new users", arguments.new)):
        if data is None:
            continue
        folder = arguments.output / name.replace(" ", "_")
        metrics = compared(
            (TASK,), data, encoder=arguments.encoder, output=folder, seeds=arguments.seeds, controls=None
        )
        if importlib.util.find_spec("surprise") is None:
            print("scikit-surprise is not installed: the tables do without its models.")
        else:
            metrics["results"] += of_surprise(data, names=tuple(arguments.peers), seeds=arguments.seeds)
        found[name] = metrics
        text += tables(metrics, title=name.capitalize()) + "\n"
        (arguments.output / "ratings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (arguments.output / "tables.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
