"""The figures of a finished model of impressions again, on its own test rows or on other impressions."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.errors import DataError, RefusedError
from peterrec.evaluation.impression_results import measured_rows
from peterrec.evaluation.split_file import FILE
from peterrec.impression_run import LoadedImpressions, load_impressions
from peterrec.metrics.impression_rows import bootstrap_facts, replicates_of
from peterrec.metrics.intervals import metric_intervals
from peterrec.run_folder import data_of, read_run
from peterrec.settings import dump


def evaluate_impressions(
    model: Path, *, data: Path | None, encoder: Path | None, continued: bool, device: torch.device
) -> tuple[dict[str, Any], Impressions]:
    """What metrics.json holds of the model in `model`, and the impressions that it was measured on.

    Without `data`: the test rows of the impressions that the run was made with. With `data`: all rows of other
    prepared impressions that have the labels. Raises SettingsError, DataError, RefusedError.
    """
    run = read_run(model, stage="finetune")
    loaded = load_impressions(model, encoder=encoder, continued=continued)
    impressions = open_impressions(data_of(model, run) if data is None else data)
    _fits(impressions, loaded, model=model)
    own = impressions.fingerprint == run["inputs"].get("data_fingerprint")
    rows = _test_rows(model, impressions) if own else np.arange(len(impressions))
    loaded.fitted.whole.to(device)
    read = loaded.fitted.rows(impressions, kept=rows, cache_mb=1024)
    plan = loaded.fitted.plan
    measured = [measured_rows(impressions, rows, plan, read.predict(rows, device))]
    which = "the test rows of the split" if own else "all rows; the model was trained on others"
    return {
        "task": loaded.facts.task.name,
        "metric": measured[0].main(plan.task.metric),
        "measures": [dump(one) for one in plan.measures],
        "protocol": (
            f"{len(rows):,} impressions of {impressions.folder.name}: {which}. The model is the one that the run "
            "stored, that of its first seed; the run's own metrics.json has all seeds, and the baselines. 95 % "
            f"bootstrap intervals over test {'users' if impressions.schema.users else 'rows'}."
            + (" Its encoder was pretrained further since the task was trained." if continued else "")
        ),
        "results": [
            {
                "name": loaded.facts.task.name,
                "role": "model",
                "metrics": metric_intervals(measured, replicates=replicates_of(measured)),
            }
        ],
        "gains": [],
        "calibration": measured[0].calibration,
        "bootstrap": bootstrap_facts(users=impressions.schema.users, replicates=replicates_of(measured)),
    }, impressions


def _fits(impressions: Impressions, loaded: LoadedImpressions, *, model: Path) -> None:
    """Raises DataError where labels, fields or domains are not those of the model, RefusedError for other histories."""
    found = {field.name: field.kind for field in impressions.schema.fields}
    kinds = {field.name: field.kind for field in loaded.schema.fields}
    for name in loaded.fitted.plan.all_fields:
        if found.get(name) != kinds[name]:
            raise DataError(
                f"{impressions.folder}: {model} reads the {kinds[name]} field {name!r}, which is not there. Prepare "
                f"the impressions again with --field {name}:{kinds[name]}."
            )
    for measure in loaded.fitted.plan.measures:
        if measure.label not in impressions.labels and measure.label not in found:
            raise DataError(
                f"{impressions.folder}: {model} is measured against the label {measure.label!r}, which is not there. "
                f"Prepare the impressions again with --label {measure.label}=COLUMN."
            )
    if impressions.schema.domains != loaded.schema.domains:
        raise DataError(
            f"{impressions.folder}: its domains are {', '.join(impressions.schema.domains) or 'none'}, those of "
            f"{model} {', '.join(loaded.schema.domains) or 'none'}. `peterrec predict` takes rows of any domain."
        )
    if not loaded.facts.with_encoder:
        return
    vocabulary = impressions.vocabulary
    if vocabulary is None or loaded.vocabulary is None or vocabulary.fingerprint != loaded.vocabulary.fingerprint:
        raise RefusedError(
            f"{impressions.folder} was prepared without histories, or for another encoder than {model} has. Prepare "
            f"the impressions again with --history LOG --encoder {loaded.encoder_folder}."
        )


def _test_rows(model: Path, impressions: Impressions) -> NDArray[np.int64]:
    path = model / FILE
    try:
        with pq.ParquetFile(path) as file:
            table = file.read(columns=["row", "part"])
    except (OSError, pa.ArrowException, KeyError) as problem:
        raise RefusedError(
            f"{path}: not readable ({(str(problem).splitlines() or [''])[0]}), so nothing says which rows the task was "
            "trained on; make the run again."
        ) from None
    tested = table["row"].to_numpy()[np.asarray(table["part"].to_pylist()) == "test"]
    return np.flatnonzero(np.isin(impressions.position, tested))
