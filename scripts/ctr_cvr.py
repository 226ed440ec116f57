"""Recipes for click and conversion rates on prepared impressions: `python scripts/ctr_cvr.py OUT --movielens DATA ...`

    --movielens DATA --encoder RUN   every recipe on it, without and with the encoder's vectors, three seeds; what these
                                     add; STAR against a model a domain and one model of all
    --hillstrom DATA                 every recipe, five seeds (splits of their own)
    --census DATA                    the recipes that take labels of any kind, five seeds

`scripts/impression_data.py` makes the tables, `peterrec prepare` the data (docs/ctr_cvr.md has the commands). Each set
is a `peterrec compare` in OUT, which goes on where it was interrupted; its tables stand in OUT/tables.md, all figures
in OUT/ctr_cvr.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from comparison import compared
from numpy.typing import NDArray

from peterrec.data.attribute import Split
from peterrec.evaluation.impression_plan import ImpressionPlan
from peterrec.evaluation.impression_study import ImpressionArena, ImpressionStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.evaluation.trial import Trial
from peterrec.metrics.impression_rows import ImpressionRows, MeasuredOutput, replicates_of
from peterrec.metrics.intervals import metric_intervals, paired_gain
from peterrec.training.progress import Progress
from peterrec.training.tracking import Tracker

ANY = ("shared_bottom", "soft_sharing", "cross_stitch", "omoe", "mmoe", "ple", "snr_trans", "snr_aver")
FUNNEL = (*ANY, "esmm", "mmoe_esmm", "dbmtl")  # for click and conversion
OUTPUTS = ("ctr", "cvr", "ctcvr")
Predicted = dict[str, NDArray[np.float64]]


def rows_of(run: Path, model: str) -> list[ImpressionRows]:
    """The test rows of each seed with what `model` predicted, from the predictions of a comparison."""
    table = pq.read_table(run / "predictions.parquet", filters=[("model", "=", model)])
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("user", "item", "domain")}
    users, domains = (np.asarray(table[name].to_pylist()) for name in ("user", "domain"))
    names = tuple(sorted(set(domains.tolist())))
    place = np.searchsorted(names, domains)
    found = []
    for seed in np.unique(columns["seed"]):
        own = columns["seed"] == seed
        predicted = {name: columns[f"p_{name}"][own].astype(np.float64) for name in OUTPUTS}
        labels = {name: columns[name][own] for name in ("click", "conversion")}
        found.append(measured(users[own], place[own], names, labels=labels, predicted=predicted))
    return found


def measured(
    users: NDArray, domains: NDArray, names: tuple[str, ...], *, labels: dict[str, NDArray], predicted: Predicted
) -> ImpressionRows:
    """CTR and CTCVR on all rows, CVR on clicked ones."""
    everywhere = np.ones(len(users), dtype=bool)
    spaces = {"ctr": everywhere, "cvr": labels["click"] == 1, "ctcvr": everywhere}
    outputs = {
        name: MeasuredOutput(labels["click" if name == "ctr" else "conversion"], predicted[name], spaces[name])
        for name in OUTPUTS
    }
    return ImpressionRows(users, domains, names, outputs)


def gains(with_encoder: Path, without: Path, recipes: tuple[str, ...]) -> list[dict[str, Any]]:
    """What the encoder's vectors add to each recipe, in AUC, paired by user."""
    found = []
    for recipe in recipes:
        ours, theirs = rows_of(with_encoder, recipe), rows_of(without, recipe)
        for output in OUTPUTS:
            gain = paired_gain(ours, theirs, metric=f"{output}/auc", replicates=replicates_of(ours))
            assert gain is not None
            found.append({"recipe": recipe, "output": output, **vars(gain)})
    return found


def of_domains(data: Path, *, seeds: int) -> dict[str, Any]:
    """STAR, one shared network, and a network for each domain alone, on the same test rows; AUC with intervals."""
    found: dict[str, list[ImpressionRows]] = {"star": [], "shared_bottom": [], "a network a domain": []}
    for seed in range(seeds):
        for name in ("star", "shared_bottom"):
            found[name].append(_tested(data, name, seed=seed))
        found["a network a domain"].append(_tested(data, "shared_bottom", seed=seed, apart=True))
    replicates = replicates_of(found["star"])
    names = [f"{output}/auc{part}" for output in OUTPUTS for part in ("", *_parts(found["star"][0]))]
    return {
        "auc": {
            name: {metric: metric_intervals(rows, replicates=replicates)[metric] for metric in names}
            for name, rows in found.items()
        },
        "gains": [
            {"metric": metric, "of": "star", "over": over, **vars(gain)}
            for over in ("shared_bottom", "a network a domain")
            for metric in names
            if (gain := paired_gain(found["star"], found[over], metric=metric, replicates=replicates)) is not None
        ],
    }


def _parts(rows: ImpressionRows) -> list[str]:
    return [name.removeprefix("ctr/auc") for name in rows.names if name.startswith("ctr/auc/domain=")]


def _tested(data: Path, recipe: str, *, seed: int, apart: bool = False) -> ImpressionRows:
    """A recipe without an encoder on the test rows; `apart`: trained on each domain's own rows, tested on them."""
    plan = ImpressionPlan.of(StudyRequest(task=recipe, encoder=None, data=data, seeds=[seed]))
    study = ImpressionStudy.of(plan)
    impressions, split = study.arena.impressions, study.arena.splits[seed]
    test = split.test
    predicted = {name: np.zeros(len(test)) for name in OUTPUTS}
    parts = range(len(impressions.schema.domains)) if apart else (None,)
    for part in parts:
        own = split if part is None else Split(*(rows[impressions.domain[rows] == part] for rows in _three(split)))
        alone = ImpressionStudy(ImpressionArena(plan, impressions, {seed: own}))
        trial = Trial(plan.contestant(), seed)
        fitted = alone.train(trial, checkpoints=None, tracker=Tracker(), progress=Progress("auto", title=recipe))
        places = np.searchsorted(test, own.test)
        for name in OUTPUTS:
            predicted[name][places] = fitted.predicted[name]
    labels = {name: impressions.labels[name][test] for name in ("click", "conversion")}
    return measured(
        impressions.user[test], impressions.domain[test], impressions.schema.domains, labels=labels, predicted=predicted
    )


def _three(split: Split) -> tuple[NDArray[np.int64], ...]:
    return split.train, split.validation, split.test


def table(metrics: dict[str, Any], outputs: tuple[str, ...], *, measures: tuple[str, ...]) -> str:
    """A Markdown table: a line a result, a column an output and measure."""
    lines = ["| | " + " | ".join(f"{output} {measure}" for output in outputs for measure in measures) + " |"]
    lines.append("|---" * (1 + len(outputs) * len(measures)) + "|")
    for result in metrics["results"]:
        cells = []
        for output in outputs:
            for measure in measures:
                figure = result["metrics"].get(f"{output}/{measure}")
                cells.append("–" if figure is None else estimate(figure))
        lines.append(f"| {result['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def estimate(figure: dict[str, Any]) -> str:
    """A value with its interval: `.801 [.798, .804]`."""
    value, low, high = (f"{figure[key]:.3f}".replace("0.", ".", 1) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def main() -> None:
    """Runs what was asked for, and writes its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--movielens", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--hillstrom", type=Path)
    parser.add_argument("--census", type=Path)
    parser.add_argument("--seeds", type=int, help="3 on MovieLens, 5 on the others unless given")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    kept = given.output / "ctr_cvr.json"
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    shown: list[str] = []
    if given.movielens is not None:
        seeds = given.seeds or 3
        recipes = (*FUNNEL, "star")
        places = {"without": (None, given.output / "without")}
        if given.encoder is not None:
            places["with"] = (given.encoder, given.output / "with")
        for name, (encoder, place) in places.items():
            metrics = compared(recipes, given.movielens, encoder=encoder, output=place, seeds=seeds)
            found[f"movielens_{name}"] = metrics["results"]
            shown += [f"## MovieLens, {name} encoder", table(metrics, OUTPUTS, measures=("auc", "log_loss", "pcoc"))]
        if "with" in places:
            found["movielens_gains"] = gains(given.output / "with", given.output / "without", recipes)
        if "movielens_domains" not in found:
            found["movielens_domains"] = of_domains(given.movielens, seeds=seeds)
    for name, data, recipes, outputs in (
        ("hillstrom", given.hillstrom, (*FUNNEL, "star"), OUTPUTS),
        ("census", given.census, ANY, ("income", "marital")),
    ):
        if data is not None:
            metrics = compared(recipes, data, encoder=None, output=given.output / name, seeds=given.seeds or 5)
            found[name] = metrics["results"]
            shown += [f"## {name}", table(metrics, outputs, measures=("auc", "log_loss", "pcoc"))]
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (given.output / "tables.md").write_text("\n\n".join(shown) + "\n", encoding="utf-8")
    print("\n\n".join(shown))


if __name__ == "__main__":
    main()
