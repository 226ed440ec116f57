"""Which encoder predicts the next item best?  `python scripts/next_item.py DATA OUT`

DATA is a folder prepared with --split leave_one_out (scripts/movielens.sh makes that of MovieLens-1M). Pretrains each
recipe of scripts/next_item/ once; the one with the best NDCG@10 on the validation part is trained with two more seeds,
and the three are measured on the test part, also on histories in a shuffled order: an encoder that reads the order must
lose by that. Finished runs in OUT are kept, so that an interrupted search goes on. Writes OUT/next_item.json and
OUT/next_item.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.data.sequences import Sequences
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.loading import load_encoder
from peterrec.inference import next_item_states, rank_vectors, targets_of, whole_histories
from peterrec.metrics.intervals import RankingRows, metric_intervals, paired_gain
from peterrec.metrics.ranking import ranking_metrics

RECIPES = Path(__file__).parent / "next_item"
SEEDS = (0, 1, 2)
FIGURES = ("hr@10", "ndcg@10")


class Shuffled:
    """Histories `sequences` whose events come in a random order, the same whenever they are read."""

    def __init__(self, sequences: Sequences, *, seed: int) -> None:
        self._sequences, self._seed = sequences, seed
        self.lengths = sequences.lengths

    def __len__(self) -> int:
        return len(self._sequences)

    def gather(self, rows: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The events `[start, stop)` of the shuffled histories `rows`, flat, and how many each has."""
        found = []
        for row, first, last in zip(rows, start, stop, strict=True):
            events, _ = self._sequences.gather(np.array([row]), np.array([0]), self.lengths[[row]])
            found.append(np.random.default_rng((self._seed, int(row))).permutation(events)[first:last])
        flat = np.concatenate(found) if found else np.zeros(0, dtype=np.int32)
        return flat, np.array([len(events) for events in found], dtype=np.int64)


def pretrained(data: Path, output: Path, *, recipe: Path, seed: int) -> dict[str, Any]:
    """metrics.json of a recipe's run in `output`, which is made unless it is there."""
    arguments = ["pretrain", str(data), "--config", str(recipe), "--output", str(output)]
    arguments += ["--set", f"training.seed={seed}"]
    print("peterrec", *arguments, flush=True)
    if not (output / "run.json").exists():
        subprocess.run([sys.executable, "-m", "peterrec", *arguments], check=True)
    return json.loads((output / "metrics.json").read_text())


def measured(prepared: PreparedLog, encoder: UserEncoder, *, shuffled: bool) -> RankingRows:
    """HR and NDCG of each test user, all items ranked but those of the user's history."""
    test, rows, device = prepared.sequences("test"), np.arange(len(prepared.sequences("test"))), torch.device("cpu")
    read: Any = Shuffled(test, seed=0) if shuffled else test
    vectors = next_item_states(encoder, read, max_length=encoder.config.max_length, device=device)
    ranks = rank_vectors(vectors, encoder, targets_of(test, rows), device=device, histories=whole_histories(test, rows))
    return RankingRows(rows, {name: ranking_metrics(ranks, ks=(10,))[name] for name in FIGURES})


def searched(data: Path, output: Path) -> list[dict[str, Any]]:
    """One run a recipe: its validation figures, the best first. Nothing here looks at the test part's figures."""
    found = []
    for recipe in sorted(RECIPES.glob("*.toml")):
        metrics = pretrained(data, output / f"{recipe.stem}_0", recipe=recipe, seed=SEEDS[0])
        told, best = metrics["training"], metrics["training"]["best_epoch"]
        validation = next(entry["validation"] for entry in metrics["curves"] if entry["epoch"] == best)
        found.append(
            {
                "recipe": recipe.stem,
                "validation": {name: validation[name] for name in FIGURES},
                "best_epoch": best,
                "epochs": told["epochs"],
                "seconds": told["seconds"],
                "parameters": metrics["results"][0]["trained_parameters"],
            }
        )
    return sorted(found, key=lambda entry: -entry["validation"]["ndcg@10"])


def markdown(result: dict[str, Any]) -> str:
    """The search and the figures of the winner as tables for people."""
    lines = ["| recipe | validation HR@10 / NDCG@10 | best epoch | parameters | minutes |", "|---|---|---|---|---|"]
    for entry in result["search"]:
        figures = " / ".join(f"{entry['validation'][name]:.4f}" for name in FIGURES)
        lines.append(
            f"| {entry['recipe']} | {figures} | {entry['best_epoch']} of {entry['epochs']} | "
            f"{entry['parameters']:,} | {entry['seconds'] / 60:.0f} |"
        )
    lines += ["", f"| {result['recipe']}, test, {len(SEEDS)} seeds | HR@10 | NDCG@10 |", "|---|---|---|"]
    for name in ("test", "shuffled", "gain_of_order"):
        cells = [f"{of['value']:.3f} [{of['low']:.3f}, {of['high']:.3f}]" for of in result[name].values()]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    per_seed = "; ".join(", ".join(f"{value:.4f}" for value in of["per_seed"]) for of in result["test"].values())
    return "\n".join([*lines, "", f"By seed: {per_seed}."]) + "\n"


def main() -> None:
    """Searches, trains the winner again, measures, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared folder, split leave_one_out")
    parser.add_argument("output", type=Path, help="folder of the runs and of the tables")
    arguments = parser.parse_args()
    search = searched(arguments.data, arguments.output)
    winner, prepared = search[0]["recipe"], open_prepared(arguments.data)
    rows: dict[bool, list[RankingRows]] = {False: [], True: []}
    for seed in SEEDS:
        folder = arguments.output / f"{winner}_{seed}"
        pretrained(arguments.data, folder, recipe=RECIPES / f"{winner}.toml", seed=seed)
        encoder = load_encoder(folder).eval()
        for shuffled, found in rows.items():
            found.append(measured(prepared, encoder, shuffled=shuffled))
    gains = {name: paired_gain(rows[False], rows[True], metric=name) for name in FIGURES}
    result = {
        "protocol": "Leave-one-out, each test user's last item among all items but those of the history, ties by "
        "expectation; 95 % bootstrap intervals over users and seeds. The recipe was chosen on the validation part.",
        "search": search,
        "recipe": winner,
        "seeds": SEEDS,
        "test": metric_intervals(rows[False]),
        "shuffled": metric_intervals(rows[True]),
        "gain_of_order": {name: vars(gain) for name, gain in gains.items() if gain is not None},
    }
    (arguments.output / "next_item.json").write_text(json.dumps(result, indent=1) + "\n")
    (arguments.output / "next_item.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
