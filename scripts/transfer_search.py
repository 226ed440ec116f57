"""How was the encoder of scripts/transfer.py chosen?  `python scripts/transfer_search.py DATA OUT`

DATA is a prepared folder with the columns gender and age. Pretrains every recipe of scripts/transfer/search/ and the
winner, scripts/transfer/pooled.toml, without labels; then a logistic regression on each one's frozen vectors (its C by
cross-validation) learns from 100, 300, 1,000 and all labels. The test users of a draw are left out altogether: of the
others 70 % learn and 30 % are the validation users, whom the figures are of. Finished encoders in OUT are kept, so
that an interrupted search goes on. Writes OUT/search.json and OUT/search.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.data.attribute import Attribute, Split, read_attribute, split_users
from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.data.reading import WHOLE
from peterrec.encoders.loading import load_encoder
from peterrec.heads.logistic import Logistic
from peterrec.inference import user_vectors
from peterrec.metrics.classification import Classified

HERE = Path(__file__).parent / "transfer"
TASKS = {"gender": "roc_auc", "age": "accuracy"}
LABELS: tuple[int | None, ...] = (100, 300, 1000, None)
FEW, ALL = 10, 3  # draws
FIRST_SEED = 100  # the table's draws begin at 0


def encoders(data: Path, output: Path) -> dict[str, NDArray[np.float64]]:
    """The user vectors `(N, D)` of each recipe's encoder, over the whole history."""
    prepared, found = open_prepared(data), {}
    histories, device = prepared.sequences("histories"), torch.device("cpu")
    for recipe in [HERE / "pooled.toml", *sorted((HERE / "search").glob("*.toml"))]:
        folder = output / recipe.stem
        arguments = ["pretrain", str(data), "--config", str(recipe), "--output", str(folder)]
        print("peterrec", *arguments, flush=True)
        if not (folder / "run.json").exists():
            subprocess.run([sys.executable, "-m", "peterrec", *arguments], check=True)
        encoder = load_encoder(folder)
        found[recipe.stem] = user_vectors(encoder, histories, max_length=WHOLE, device=device).double().numpy()
    return found


def draws(attribute: Attribute, *, labels: int | None) -> list[Split]:
    """Users who learn (`train`) and who are judged (`validation`), without those who are tested in these draws."""
    found = []
    for seed in range(FIRST_SEED, FIRST_SEED + (ALL if labels is None else FEW)):
        outer = split_users(attribute, fractions=(0.43, 0.3, 0.27), stratified=True, seed=seed)
        learned = outer.train
        if labels is not None:
            learned = np.random.default_rng(seed).permutation(learned)[:labels]
        found.append(Split(learned, outer.validation, outer.test[:0]))
    return found


def figure(vectors: NDArray[np.float64], attribute: Attribute, split: Split, *, metric: str) -> float:
    """The metric of a logistic regression on `vectors` `(N, D)` of all users, on the validation users."""
    centred = vectors - vectors.mean(axis=0)
    scaled = centred / np.sqrt((centred**2).sum(axis=1).mean())
    rows, labels, classes = attribute.rows, attribute.labels, len(attribute.classes)
    model = Logistic().fit(scaled[rows[split.train]], labels[split.train], num_classes=classes)
    probabilities = model.predict(scaled[rows[split.validation]])
    judged = Classified(labels[split.validation], probabilities)
    return float(judged.measure(np.ones((1, len(split.validation))), metrics=[metric])[metric][0])


def row(name: str, vectors: NDArray[np.float64], prepared: PreparedLog) -> dict[str, Any]:
    """The mean figures of an encoder, by task and number of labels."""
    told: dict[str, Any] = {"recipe": name, "channels": vectors.shape[1]}
    for task, metric in TASKS.items():
        attribute = read_attribute(prepared, column=task)
        for labels in LABELS:
            values = [figure(vectors, attribute, split, metric=metric) for split in draws(attribute, labels=labels)]
            told[f"{task} {labels or 'all'}"] = float(np.mean(values))
    return told


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table for people."""
    names = list(rows[0])
    cells = [[f"{of[name]:.3f}" if isinstance(of[name], float) else str(of[name]) for name in names] for of in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [names, ["---"] * len(names), *cells]) + "\n"


def main() -> None:
    """Pretrains, judges, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("output", type=Path, help="folder of the encoders and of the tables")
    arguments = parser.parse_args()
    prepared, rows = open_prepared(arguments.data), []
    for name, vectors in encoders(arguments.data, arguments.output).items():
        rows.append(row(name, vectors, prepared))
        print(rows[-1], flush=True)
        (arguments.output / "search.json").write_text(json.dumps(rows, indent=1) + "\n")
        (arguments.output / "search.md").write_text(markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
