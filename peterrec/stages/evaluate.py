"""`peterrec evaluate`: the figures of a finished run again, on its own data or on others."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from peterrec.data.attribute import read_attribute
from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import load_encoder
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.evaluation.next_item import evaluate_next_item, protocol
from peterrec.inference import choose_device
from peterrec.metrics.classification import Classified
from peterrec.metrics.intervals import ClassificationRows, metric_intervals
from peterrec.report.files import write_results
from peterrec.run_folder import FORMAT_VERSION, output_folder, read_run
from peterrec.task_run import load_task
from peterrec.training.finetuning import predict

Device = Literal["auto", "cpu", "cuda", "mps"]


def run(
    model: Path,
    *,
    output: Path,
    data: Path | None = None,
    encoder: Path | None = None,
    device: Device = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates an encoder (next item) or a task (its labels) and writes metrics.json, a card and a report.

    Without `data`: the prepared log that the run was made with, the same test users. With `data`: another prepared log of
    the same vocabulary; labelled users that the task was trained or validated on are left out and counted. Returns what
    metrics.json holds. Raises SettingsError, DataError, RefusedError.
    """
    run_facts = read_run(model)
    stage = run_facts["stage"]
    if stage not in ("pretrain", "finetune"):
        raise SettingsError(f"{model} is the output of `peterrec {stage}`; give that of pretrain or finetune.")
    where = choose_device(device)
    resolved = {"model": model.name, "stage": stage, "data": None if data is None else data.name}
    own = Path(run_facts["inputs"]["data"])
    own = own if stage == "pretrain" else (model / own).resolve()
    prepared = open_prepared(own if data is None else data)
    if stage == "pretrain":
        metrics = _encoder(model, prepared, device=where)
    else:
        metrics = _task(model, prepared, encoder=encoder, device=where)
    metrics = {"format_version": FORMAT_VERSION, "stage": "evaluate", **metrics}
    with output_folder(Path(output), stage="evaluate", overwrite=overwrite, resume=resolved) as folder:
        write_results(
            folder,
            metrics,
            title=f"Evaluation of {model.name}",
            settings=resolved,
            usage=[f"peterrec evaluate --model {model.name}"],
            summary=prepared.summary,
        )
        folder.finish(inputs={"model": str(model), "data": str(prepared.folder)})
    return metrics


def _encoder(model: Path, prepared: PreparedLog, *, device: Any) -> dict[str, Any]:
    _same_vocabulary(model, Vocabulary.load(model / "vocabulary.parquet"), prepared)
    encoder = load_encoder(model).to(device)
    found = evaluate_next_item(prepared, encoder=encoder, device=device, model_facts={})
    return {"protocol": protocol(prepared), **found}


def _task(model: Path, prepared: PreparedLog, *, encoder: Path | None, device: Any) -> dict[str, Any]:
    loaded = load_task(model, encoder=encoder)
    facts = loaded.facts
    _same_vocabulary(model, loaded.vocabulary, prepared)
    attribute = read_attribute(prepared, column=facts.task.column, classes=facts.classes)
    parts = pq.read_table(model / "split.parquet")
    learned = parts.filter(
        pc.call_function("is_in", [parts["part"]], pc.SetLookupOptions(value_set=pa.array(["train", "validation"])))
    )["user"]
    fresh = ~np.isin(attribute.users, np.asarray(learned.to_pylist(), dtype=np.str_))
    if not fresh.any():
        raise DataError(f"{prepared.folder}: every labelled user was used to train {model}; none is left to test.")
    rows, labels = attribute.rows[fresh], attribute.labels[fresh]
    probabilities = predict(
        loaded.model.to(device),
        prepared.sequences("histories"),
        rows=rows,
        max_length=facts.task.max_length,
        device=device,
    )
    prior = np.tile(np.asarray(facts.prior), (len(rows), 1))
    results = [
        {
            "name": name,
            "role": role,
            "metrics": metric_intervals([ClassificationRows(attribute.users[fresh], labels, p)]),
        }
        for name, role, p in ((facts.adapter.name, "model", probabilities), ("majority", "baseline", prior))
    ]
    classified = Classified(labels, probabilities)
    counts = np.bincount(labels, minlength=len(facts.classes)).tolist()
    return {
        "task": facts.task.name,
        "metric": facts.task.metric,
        "protocol": (
            f"{facts.task.column} of the {int(fresh.sum()):,} labelled users of {prepared.folder.name} whom the task was "
            f"neither trained nor validated on ({int((~fresh).sum()):,} were, and are left out). Predictions are the most "
            "probable class; 95 % bootstrap intervals over users."
        ),
        "results": results,
        "gains": [],
        "confusion": {"labels": list(facts.classes), "matrix": classified.confusion_matrix().tolist()},
        "calibration": classified.reliability_curve(),
        "histograms": {"labels": dict(zip(facts.classes, counts, strict=True))},
    }


def _same_vocabulary(model: Path, vocabulary: Vocabulary, prepared: PreparedLog) -> None:
    if vocabulary.fingerprint != prepared.vocabulary.fingerprint:
        raise RefusedError(
            f"{prepared.folder} was prepared with the item vocabulary {prepared.vocabulary.fingerprint[:16]}, but {model} "
            f"has {vocabulary.fingerprint[:16]}. Prepare the log again with --encoder {model}."
        )
