"""The figures of a finished run that ranks items again, on its own test users."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peterrec.data.attribute import Split
from peterrec.data.cross_domain import PairedLogs, open_pairs
from peterrec.errors import RefusedError
from peterrec.evaluation.cold_start import ColdStart, Entrant, cold_start_results
from peterrec.evaluation.cross_baselines import cold_start_baselines
from peterrec.evaluation.encoder_sight import encoder_sight
from peterrec.evaluation.ranking_fitted import measure_ranking
from peterrec.evaluation.ranking_results import reported
from peterrec.evaluation.split_file import read_split
from peterrec.ranking_run import LoadedRanking, load_ranking
from peterrec.run_record import data_of, read_run


def evaluate_ranking(
    model: Path, *, encoder: Path | None, continued: bool, device: torch.device
) -> tuple[dict[str, Any], PairedLogs]:
    """What metrics.json holds of the stored model and all baselines on the test users of its split; its paired log.

    Raises SettingsError, DataError, and RefusedError where files of the run are damaged or of another one.
    """
    run = read_run(model, stage="finetune")
    loaded = load_ranking(model, encoder=encoder, continued=continued)
    task = loaded.facts.task
    pairs = _pairs(model, run, loaded)
    cold = ColdStart(
        pairs,
        {task.seeds[0]: _split(model, pairs)},
        predict=task.predict,
        mixed=task.history == "mixed",
        fewest_source=task.fewest_source,
    )
    measured = measure_ranking(loaded.model.to(device), cold, seed=task.seeds[0], max_length=loaded.facts.max_length)
    entrant = Entrant(loaded.facts.adapter.name, "model", {task.seeds[0]: measured})
    baselines, skipped = cold_start_baselines(cold)
    found = cold_start_results(cold, [entrant, *baselines], skipped=skipped, watched=task.metric)
    found["results"] = [reported(result, task.metrics) for result in found["results"]]
    found["protocol"] += (
        f" {encoder_sight(loaded.encoder_folder, pairs)} The model is the one that the run stored, that of its first "
        "seed; the run's own metrics.json has all seeds."
        + (" Its encoder was pretrained further since the task was trained." if continued else "")
    )
    return {"task": task.name, **found, "reference": None}, pairs


def _pairs(model: Path, run: dict[str, Any], loaded: LoadedRanking) -> PairedLogs:
    folder = data_of(model, run)
    pairs = open_pairs(folder)
    known = (pairs.source_vocabulary.fingerprint, pairs.target_vocabulary.fingerprint)
    wanted = (loaded.facts.vocabulary_fingerprint, loaded.facts.target_fingerprint)
    if known != wanted or pairs.fingerprint != run["inputs"].get("data_fingerprint"):
        raise RefusedError(
            f"{folder}: not the paired log that {model} was made with; put that back, or fine-tune again."
        )
    return pairs


def _split(model: Path, pairs: PairedLogs) -> Split:
    """The split of the stored model, as places in the paired log."""
    users, parts = read_split(model)
    if users.tolist() != pairs.users.array.to_pylist():
        raise RefusedError(f"{model}: its split names other users than its paired log; make the run again.")
    return Split(*(np.flatnonzero(parts == part) for part in ("train", "validation", "test")))
