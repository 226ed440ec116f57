"""The figures of a finished model of impressions again, on its own test rows or on other impressions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.data.impressions.space import parse_space
from peterrec.errors import DataError, RefusedError
from peterrec.evaluation.impression_entrant import by_measure, measured
from peterrec.evaluation.impression_split import read_test_rows
from peterrec.impression_run import LoadedImpressions, load_impressions
from peterrec.metrics.impression_rows import bootstrap_facts, replicates_of
from peterrec.metrics.intervals import metric_intervals
from peterrec.run_record import data_of, read_run
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
    rows = read_test_rows(model, impressions=impressions) if own else np.arange(len(impressions))
    loaded.fitted.whole.to(device)
    read = loaded.fitted.rows(impressions, kept=rows, cache_mb=1024)
    plan = loaded.fitted.plan
    found = [measured(impressions, rows, plan, by_measure(plan, read.predict(rows, device)))]
    which = (
        "the test rows of the split"
        if own
        else "all rows. They are not the data that the model was trained on, as they were then: if both come from one "
        "file, it may have learned from these rows"
    )
    return {
        "task": loaded.facts.task.name,
        "metric": found[0].main(plan.task.metric),
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
                "metrics": metric_intervals(found, replicates=replicates_of(found)),
            }
        ],
        "gains": [],
        "calibration": found[0].calibration,
        "bootstrap": bootstrap_facts(users=impressions.schema.users, replicates=replicates_of(found)),
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
        of_space = () if measure.space is None else parse_space(measure.space).names
        known = {*impressions.labels, *impressions.schema.of_kind("numeric")}
        lacking = [name for name in of_space if name not in impressions.labels]
        lacking = [name for name in (measure.label, measure.weight_by) if name not in (*known, None)] + lacking
        if lacking:
            raise DataError(
                f"{impressions.folder}: {model} is measured by the label {lacking[0]!r}, which is not there. Prepare "
                f"the impressions again with --label {lacking[0]}=COLUMN."
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
