"""Ratings of MovieLens-1M: Koren's family, scikit-surprise, and the multi-task model on the same rows.

    python scripts/ratings.py OUT --known DATA [--new DATA] [--encoder RUN] [--seeds N] [--peers NAMES]
                              [--without-network]

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from comparison import compared
from numpy.typing import NDArray

from peterrec.baselines.ratings.models import MODELS
from peterrec.data.attribute import Split
from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.evaluation.rating_baselines import rating_predictions
from peterrec.metrics.impression_rows import ImpressionRows, MeasuredOutput, replicates_of
from peterrec.metrics.intervals import metric_intervals
from peterrec.objective_recipe import Measure

TASK = "ratings"
# their defaults but for SVDpp, whose default of 20 factors is kept: as their documentation measures them
SURPRISE = ("BaselineOnly", "KNNBaseline", "SVD", "SVDpp")
Predict = Callable[[Split, int], NDArray[np.float64]]  # a split and a seed to values of its test rows


def measured(impressions: Impressions, predict: Predict, *, name: str, role: str, seeds: int) -> dict[str, Any]:
    """RMSE of what `predict` makes of the test rows, with an interval over users and seeds."""
    rating = impressions.labels["rating"].astype(np.float64)
    rows, started = [], time.perf_counter()
    for seed in range(seeds):
        split = impressions.split(seed)
        test = split.test
        output = MeasuredOutput(rating[test], predict(split, seed), np.ones(len(test), dtype=bool), "value")
        rows.append(ImpressionRows(impressions.user[test], np.full(len(test), -1), (), {"rating": output}))
    seconds = (time.perf_counter() - started) / seeds
    metrics = metric_intervals(rows, replicates=replicates_of(rows))
    return {"name": name, "role": role, "metrics": metrics, "seconds": seconds}


def classical(impressions: Impressions, name: str) -> Predict:
    """A model of ratings by itself; as in `compare`, by the same rows."""
    measure = Measure(of="rating", label="rating")

    def predict(split: Split, seed: int) -> NDArray[np.float64]:
        return rating_predictions(name, impressions, measure, split=split, weighted=True, seed=seed)

    return predict


def of_surprise(impressions: Impressions, name: str) -> Predict:
    """A model of scikit-surprise, which learns from the same training rows."""
    import surprise

    rating = impressions.labels["rating"].astype(np.float64)
    low, high = float(np.nanmin(rating)), float(np.nanmax(rating))
    options: dict[str, Any] = {"verbose": False}
    if name == "KNNBaseline":
        options["sim_options"] = {"name": "pearson_baseline", "user_based": False}

    def predict(split: Split, seed: int) -> NDArray[np.float64]:
        users, items = (ids.tolist() for ids in (impressions.user[split.train], impressions.item[split.train]))
        raw = [(*row, None) for row in zip(users, items, rating[split.train].tolist(), strict=True)]
        train = surprise.Dataset(surprise.Reader(rating_scale=(low, high))).construct_trainset(raw)
        random = {"random_state": seed} if name.startswith("SVD") else {}
        model = getattr(surprise, name)(**options, **random)
        model.fit(train)
        users, items = (ids.tolist() for ids in (impressions.user[split.test], impressions.item[split.test]))
        return np.array([model.predict(user, item).est for user, item in zip(users, items, strict=True)])

    return predict


def tables(metrics: dict[str, Any], *, title: str) -> str:
    """Markdown: RMSE of the rating by model, the gains of the first model, AUC of what is a probability."""
    results = metrics["results"]
    lines = [f"## {title}", "", metrics["protocol"], "", "| model | RMSE | seconds |", "|---|---|---|"]
    rated = [one for one in results if "rating/rmse" in one["metrics"]]
    for one in sorted(rated, key=lambda one: one["metrics"]["rating/rmse"]["value"]):
        lines.append(f"| `{one['name']}` | {_figure(one['metrics']['rating/rmse'], 4)} | {one['seconds']:,.0f} |")
    if metrics["gains"]:
        lines += _network_lines(metrics)
    return "\n".join(lines) + "\n"


def _network_lines(metrics: dict[str, Any]) -> list[str]:
    """Tables of what the first model gains over the others, and of the AUC of its probabilities."""
    results = metrics["results"]
    first = results[0]["name"]
    lines = ["", f"| `{first}` over | RMSE (less is better) |", "|---|---|"]
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
    return lines


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
    parser.add_argument("--without-network", action="store_true", help="the models of ratings alone")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    text = ""
    for name, data in (("known users", arguments.known), ("new users", arguments.new)):
        if data is None:
            continue
        if arguments.without_network:
            metrics: dict[str, Any] = {"protocol": "The models of ratings alone.", "results": [], "gains": []}
        else:
            folder = arguments.output / name.replace(" ", "_")
            metrics = compared(
                (TASK,), data, encoder=arguments.encoder, output=folder, seeds=arguments.seeds, controls=None
            )
        impressions = open_impressions(data)
        apart = {one: ("baseline", classical(impressions, one)) for one in MODELS if arguments.without_network}
        if importlib.util.find_spec("surprise") is None:
            print("scikit-surprise is not installed: the tables do without its models.")
        else:
            apart |= {f"surprise {one}": ("peer", of_surprise(impressions, one)) for one in arguments.peers}
        for model, (role, predict) in apart.items():
            metrics["results"].append(measured(impressions, predict, name=model, role=role, seeds=arguments.seeds))
            print(model, _figure(metrics["results"][-1]["metrics"]["rating/rmse"], 4))
        found[name] = metrics
        text += tables(metrics, title=name.capitalize()) + "\n"
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "ratings.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (arguments.output / "tables.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
