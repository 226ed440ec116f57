"""Rankers with and without the frozen user vector: `python scripts/rankers.py OUT --data DATA --encoder RUN`

DATA are prepared impressions whose histories were prepared for the encoder RUN (docs/ctr_cvr.md has the commands for
MovieLens-1M). Two comparisons in OUT, each going on where it was interrupted: one on fields alone, one that also reads
the encoder's vectors. OUT/tables.md has AUC and log loss of each and the paired differences, OUT/rankers.json all.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from comparison import compared

from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.evaluation.impression_entrant import measured
from peterrec.evaluation.impression_plan import ImpressionPlan
from peterrec.evaluation.impression_study import ImpressionStudy
from peterrec.evaluation.study_request import StudyRequest
from peterrec.metrics.impression_rows import ImpressionRows, replicates_of
from peterrec.metrics.intervals import paired_gain

RANKERS = ("lr", "fm", "ffm", "wide_deep", "deepfm")


def rows_of(run: Path, model: str, *, data: Impressions, study: ImpressionStudy) -> list[ImpressionRows]:
    """The test rows of each seed with what `model` predicted."""
    table = pq.read_table(run / "predictions.parquet", filters=[("model", "=", model)])
    plan = study.design(study.arena.plan.task)
    seeds, position = table["seed"].to_numpy(), table["row"].to_numpy()
    places = np.empty(int(data.position.max()) + 1, dtype=np.int64)
    places[data.position] = np.arange(len(data))
    found = []
    for seed in np.unique(seeds):
        own = seeds == seed
        predicted = {one.of: table[f"p_{one.of}"].to_numpy()[own].astype(np.float64) for one in plan.measures}
        found.append(measured(data, places[position[own]], plan, predicted))
    return found


def gains(output: Path, *, data: Path) -> list[dict[str, Any]]:
    """What the encoder's vectors add to each ranker, and each to the one before it, in AUC, paired by user."""
    study = ImpressionStudy.of(ImpressionPlan.of(StudyRequest(task=RANKERS[0], encoder=None, data=data)))
    impressions = open_impressions(data)
    rows = {
        (name, place): rows_of(output / place, name, data=impressions, study=study)
        for place in ("with", "without")
        for name in RANKERS
    }
    pairs = [((name, "with"), (name, "without")) for name in RANKERS]
    pairs += [((name, place), ("lr", place)) for place in ("with", "without") for name in RANKERS[1:]]
    found = []
    for ours, theirs in pairs:
        for metric in (name for name in rows[ours][0].names if name.endswith("/auc") and not name.startswith("mean")):
            gain = paired_gain(rows[ours], rows[theirs], metric=metric, replicates=replicates_of(rows[ours]))
            assert gain is not None
            found.append({"of": " ".join(ours), "over": " ".join(theirs), "metric": metric, **vars(gain)})
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line a ranker and place, a column a figure of an output."""
    first = next(iter(found.values()))["results"][0]["metrics"]
    names = [name for name in first if name.endswith(("/auc", "/log_loss"))]
    lines = ["| | " + " | ".join(names) + " | parameters | seconds |", "|---" * (len(names) + 3) + "|"]
    for place, metrics in found.items():
        for one in metrics["results"]:
            cells = [
                f"{f['value']:.4f} [{f['low']:.4f}, {f['high']:.4f}]" if f else "–"
                for f in (one["metrics"].get(name) for name in names)
            ]
            costs = f"{one['trained_parameters']:,}" if "trained_parameters" in one else "–"
            lines.append(f"| {one['name']}, {place} | {' | '.join(cells)} | {costs} | {one.get('seconds', 0):.0f} |")
    return "\n".join(lines)


def gain_table(found: list[dict[str, Any]]) -> str:
    """A line a paired difference."""
    lines = ["| | over | figure | difference |", "|---|---|---|---|"]
    for one in found:
        lines.append(
            f"| {one['of']} | {one['over']} | {one['metric']} | "
            f"{one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}] |"
        )
    return "\n".join(lines)


def main() -> None:
    """Runs both comparisons, and writes their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], help="a training setting, such as epochs=2")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    found = {
        place: compared(
            RANKERS, given.data, encoder=encoder, output=given.output / place, seeds=given.seeds, overrides=given.set
        )
        for place, encoder in (("without", None), ("with", given.encoder))
    }
    differences = gains(given.output, data=given.data)
    everything = {**{place: metrics["results"] for place, metrics in found.items()}, "gains": differences}
    (given.output / "rankers.json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    shown = f"{table(found)}\n\n{gain_table(differences)}\n"
    (given.output / "tables.md").write_text(shown, encoding="utf-8")
    print(shown)


if __name__ == "__main__":
    main()
