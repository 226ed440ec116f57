"""What a finished model of impressions predicts for its own validation and test rows: those tune, these test."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from peterrec.data.impressions.impressions import Impressions, open_impressions
from peterrec.errors import RefusedError, SettingsError
from peterrec.evaluation.impression_split import read_parts
from peterrec.fusion.predictions import PREFIX, TEST, TUNE, Predictions, lists_of, numbers
from peterrec.impression_run import load_impressions
from peterrec.run_record import data_of, read_run
from peterrec.run_weights import kind_of


def of_run(
    folder: Path, *, device: torch.device, within: str | None = None, encoder: Path | None = None
) -> tuple[Predictions, list[str]]:
    """The predictions of the model of a run, and its heads that are probabilities (no derived ones).

    `within` may be `time`: rows of one user and time are a list. Raises what loading the model raises, SettingsError
    for a run of another kind, RefusedError where its data are not those that it was made with.
    """
    run = read_run(folder, stage="finetune")
    if kind_of(run) != "impressions":
        raise SettingsError(
            f"{folder} is a run of another kind of task; fused are the predictions of tasks on impressions, such as "
            "`peterrec finetune --task mmoe_esmm` makes."
        )
    loaded = load_impressions(folder, encoder=encoder)
    impressions = open_impressions(data_of(folder, run))
    if impressions.fingerprint != run["inputs"].get("data_fingerprint"):
        raise RefusedError(
            f"{impressions.folder} does not hold the impressions that {folder} was trained on, so nothing says which "
            "rows it has not seen. Prepare them as they were, or give a table of predictions with labels."
        )
    part = read_parts(folder, impressions=impressions)
    rows = np.flatnonzero(np.isin(part, (TUNE, TEST)))
    network = loaded.fitted.network
    loaded.fitted.whole.to(device)
    predicted = loaded.fitted.rows(impressions, kept=rows, cache_mb=1024).predict(rows, device)
    table = _columns(impressions, rows)
    if within is not None and within not in table.column_names:
        raise SettingsError(f"--list {within}: the rows of a run have {', '.join(table.column_names)}.")
    users = impressions.schema.users
    clusters = np.asarray(impressions.user[rows], dtype=np.int64) if users else np.arange(len(rows))
    weighed = impressions.weight is not None and loaded.facts.task.row_weights
    found = Predictions(
        origin=str(folder),
        table=pa.table(
            {
                **{name: table[name] for name in table.column_names},
                "part": pa.array(part[rows].tolist(), pa.string()),
                **{f"{PREFIX}{name}": pa.array(values) for name, values in predicted.items()},
            }
        ),
        predicted={name: np.asarray(values, dtype=np.float64) for name, values in predicted.items()},
        labels={name: numbers(table, name, origin=str(folder)) for name in impressions.labels},
        clusters=clusters,
        users=users,
        lists=lists_of(clusters if users else np.zeros_like(clusters), table, within, origin=str(folder)),
        seeds=np.zeros(len(rows), dtype=np.int64),
        tuned=part[rows] == TUNE,
        tested=part[rows] == TEST,
        told="the validation rows of the run tune (its training was stopped by them), its test rows test",
        weight=np.asarray(impressions.weight[rows], dtype=np.float64)
        if weighed and impressions.weight is not None
        else None,
    )
    heads = [name for name in network.outputs if name not in network.values and name not in loaded.facts.task.derived]
    return found, heads


def _columns(impressions: Impressions, rows: np.ndarray) -> pa.Table:
    """What is known of the rows: place, user, item, domain, time, labels."""
    columns = {"row": pa.array(impressions.position[rows])}
    for name, ids, codes in (
        ("user", impressions.user_ids, impressions.user),
        ("item", impressions.item_ids, impressions.item),
    ):
        if len(ids):
            columns[name] = ids.array.take(pa.array(codes[rows]))
    if impressions.schema.domains:
        code = impressions.domain[rows]
        columns["domain"] = pa.array(impressions.schema.domains, pa.string()).take(pa.array(code, mask=code < 0))
    if impressions.time is not None:
        columns["time"] = pa.array(impressions.time[rows])
    columns |= {name: pa.array(values[rows], from_pandas=True) for name, values in impressions.labels.items()}
    return pa.table(columns)
