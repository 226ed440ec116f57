"""`peterrec evaluate`: the figures of a finished run again, on its own data or on others."""

import shlex
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.data.attribute import Attribute, read_attribute
from peterrec.data.prepared import PreparedLog, open_prepared
from peterrec.data.vocabulary import Vocabulary
from peterrec.encoders.loading import open_encoder
from peterrec.errors import DataError, RefusedError, SettingsError
from peterrec.evaluation.impression_evaluation import evaluate_impressions
from peterrec.evaluation.next_item import evaluate_next_item
from peterrec.evaluation.ranking_evaluation import evaluate_ranking
from peterrec.evaluation.split_file import read_split
from peterrec.inference import choose_device
from peterrec.metrics.classification import Classified
from peterrec.metrics.intervals import ClassificationRows, metric_intervals, paired_gain
from peterrec.report.files import write_results
from peterrec.report.pairs_summary import pairs_summary
from peterrec.run_folder import output_folder
from peterrec.run_record import FORMAT_VERSION, data_of, read_run, relative_to_run
from peterrec.run_weights import kind_of
from peterrec.task_run import load_task
from peterrec.training.finetuning import predict

Device = Literal["auto", "cpu", "cuda", "mps"]


def run(
    model: Path,
    *,
    output: Path,
    data: Path | None = None,
    encoder: Path | None = None,
    continued: bool = False,
    device: Device = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Evaluates an encoder (next item) or a task (its labels) and writes metrics.json, a card and a report.

    Without `data`: the prepared log that the run was made with, the same test users. With `data`: another prepared log
    of the same vocabulary; labelled users that the task was trained or validated on, or that its label budget left
    out, are left out and counted. `encoder` is the task's in another place, or one that holds it (with `continued`, one
    that went on from it), with data of its vocabulary. Returns what metrics.json holds. Raises SettingsError,
    DataError, RefusedError.
    """
    run_facts = read_run(model)
    stage = run_facts.get("stage")
    if stage not in ("pretrain", "finetune"):
        raise SettingsError(f"{model} is the output of `peterrec {stage}`; give that of pretrain or finetune.")
    where = choose_device(device)
    resolved = {"model": model.name, "stage": stage, "data": None if data is None else data.name}
    if stage == "finetune" and kind_of(run_facts) == "ranking":
        if data is not None:
            raise SettingsError(
                f"--data: {model} ranks the items of a target domain, and is measured on the test users of the logs "
                "that it was made from; leave --data out. `peterrec recommend` reads other logs."
            )
        metrics, pairs = evaluate_ranking(model, encoder=encoder, continued=continued, device=where)
        return _write(
            metrics,
            output=output,
            model=model,
            data=pairs.folder,
            summary=pairs_summary(pairs.summary),
            resolved=resolved,
            overwrite=overwrite,
        )
    if stage == "finetune" and kind_of(run_facts) == "impressions":
        metrics, impressions = evaluate_impressions(
            model, data=data, encoder=encoder, continued=continued, device=where
        )
        return _write(
            metrics,
            output=output,
            model=model,
            data=impressions.folder,
            summary=impressions.summary,
            resolved=resolved,
            overwrite=overwrite,
        )
    recorded = data_of(model, run_facts)
    prepared = open_prepared(recorded if data is None else data)
    own = _is_own(prepared, recorded, run_facts)
    if stage == "pretrain":
        metrics = _encoder(model, prepared, own=own, device=where)
    else:
        metrics = _task(model, prepared, own=own, encoder=encoder, continued=continued, device=where)
    return _write(
        metrics,
        output=output,
        model=model,
        data=prepared.folder,
        summary=prepared.summary,
        resolved=resolved,
        overwrite=overwrite,
    )


def _write(
    metrics: dict[str, Any],
    *,
    output: Path,
    model: Path,
    data: Path,
    summary: dict[str, Any],
    resolved: dict[str, Any],
    overwrite: bool,
) -> dict[str, Any]:
    metrics = {"format_version": FORMAT_VERSION, "stage": "evaluate", **metrics}
    with output_folder(Path(output), stage="evaluate", overwrite=overwrite, resume=resolved) as folder:
        write_results(
            folder,
            metrics,
            title=f"Evaluation of {model.name}",
            settings=resolved,
            usage=[f"peterrec evaluate --model {shlex.quote(str(model))}"],
            summary=summary,
        )
        inputs = {"model": model, "data": data}
        folder.finish(inputs={name: relative_to_run(path, folder.path) for name, path in inputs.items()})
    return metrics


def _is_own(prepared: PreparedLog, recorded: Path, run: dict[str, Any]) -> bool:
    """Whether a run was made with these very data; a run that noted no fingerprint is known by the folder."""
    noted = run["inputs"].get("data_fingerprint")
    return prepared.folder.resolve() == recorded.resolve() if noted is None else prepared.fingerprint == noted


def _encoder(model: Path, prepared: PreparedLog, *, own: bool, device: torch.device) -> dict[str, Any]:
    encoder, vocabulary = open_encoder(model)
    _same_vocabulary(model, vocabulary, prepared)
    encoder.to(device)  # type: ignore[arg-type]  # transformers' signature hides torch's
    found = evaluate_next_item(prepared, encoder=encoder, device=device, model_facts={})
    if not own:
        found["protocol"] += (
            f" These are not the data that {model.name} was pretrained on, as they were then: if both come from one "
            "log, pretraining may have seen these events, held-out items among them."
        )
    return found


def _task(
    model: Path, prepared: PreparedLog, *, own: bool, encoder: Path | None, continued: bool, device: torch.device
) -> dict[str, Any]:
    loaded = load_task(model, encoder=encoder, continued=continued)
    facts = loaded.facts
    _same_vocabulary(model, loaded.vocabulary, prepared)
    attribute = read_attribute(prepared, column=facts.task.column, classes=facts.classes)
    fresh = _test_users(model, attribute, own=own)
    if not fresh.any():
        raise DataError(f"{prepared.folder}: every labelled user was used to train {model}; none is left to test.")
    rows, labels = attribute.rows[fresh], attribute.labels[fresh]
    probabilities = predict(
        loaded.model.to(device),
        prepared.sequences("histories"),
        rows=rows,
        max_length=facts.max_length,
        device=device,
    )
    prior = np.tile(np.asarray(facts.prior), (len(rows), 1))
    tested = {
        name: [ClassificationRows(attribute.users[fresh], labels, found, names=facts.task.metrics)]
        for name, found in ((facts.adapter.name, probabilities), ("majority", prior))
    }
    results = [
        {"name": name, "role": "baseline" if name == "majority" else "model", "metrics": metric_intervals(each)}
        for name, each in tested.items()
    ]
    gain = paired_gain(tested[facts.adapter.name], tested["majority"], metric=facts.task.metric)
    over = {"metric": facts.task.metric, "of": facts.adapter.name, "over": "majority"}
    gains = [] if gain is None else [{**over, **vars(gain)}]
    classified = Classified(labels, probabilities)
    counts = np.bincount(labels, minlength=len(facts.classes)).tolist()
    return {
        "task": facts.task.name,
        "metric": facts.task.metric,
        "protocol": (
            f"{facts.task.column} of {int(fresh.sum()):,} labelled users of {prepared.folder.name}: "
            f"{'the test users of the split' if own else 'those'} that the task was neither trained nor validated on "
            f"({int((~fresh).sum()):,} others are left out). Predictions are the most probable class; 95 % bootstrap "
            "intervals over users. The model is the one that the run stored, that of its first seed; the run's own "
            "metrics.json has all seeds, and the baselines that train."
            + (" Its encoder was pretrained further since the task was trained." if continued else "")
        ),
        "results": results,
        "gains": gains,
        "confusion": {"labels": list(facts.classes), "matrix": classified.confusion_matrix().tolist()},
        "calibration": classified.reliability_curve(),
        "histograms": {"labels": dict(zip(facts.classes, counts, strict=True))},
    }


def _test_users(model: Path, attribute: Attribute, *, own: bool) -> NDArray[np.bool_]:
    """Which labelled users may be tested: on the run's own data its test users, on others also those it did not know.

    Raises RefusedError where the run's split.parquet is missing or damaged.
    """
    users, parts = read_split(model)
    tested = np.isin(attribute.users, users[parts == "test"])
    return tested if own else tested | ~np.isin(attribute.users, users)


def _same_vocabulary(model: Path, vocabulary: Vocabulary, prepared: PreparedLog) -> None:
    if vocabulary.fingerprint != prepared.vocabulary.fingerprint:
        raise RefusedError(
            f"{prepared.folder} was prepared with the item vocabulary {prepared.vocabulary.fingerprint[:16]}, but "
            f"{model} has {vocabulary.fingerprint[:16]}. Prepare the log again with --encoder {model}."
        )
