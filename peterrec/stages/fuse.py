"""`peterrec fuse`: one score from several predictions."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peterrec.errors import SettingsError, did_you_mean
from peterrec.fusion.formula import Form, Fusion, noted_metrics, parse_weights
from peterrec.fusion.goal import default_goals, parse_goals
from peterrec.fusion.predictions import TEST, TUNE, Predictions, of_table, read_table
from peterrec.fusion.results import fusion_results
from peterrec.fusion.run_predictions import of_run
from peterrec.fusion.tuning import tune
from peterrec.inference import choose_device
from peterrec.report.files import write_results
from peterrec.run_folder import output_folder
from peterrec.run_record import FORMAT_VERSION, relative_to_run

SCORES, WEIGHTS = "fused.parquet", "weights.json"


def run(
    source: Path,
    *,
    output: Path,
    form: Form | None = None,
    weights: str | None = None,
    scores: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    trials: int = 200,
    seed: int = 0,
    tune_share: float = 0.5,
    user: str | None = None,
    within: str | None = None,
    encoder: Path | None = None,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fuses the predictions of a run on impressions, or of a table, and writes weights, scores and figures.

    `weights` are those of predictions ("ctr=1,cvr=0.5") or a file of an earlier fusion; without them they are tuned by
    `metrics` ("click/gauc=1"), on the validation rows of the run, or on `tune_share` of the users of the table.
    `scores` are the predictions to fuse: of a run the heads that are probabilities, of a table all. A table without the
    labels of `metrics` can be fused by `weights`, not measured.

    Writes fused.parquet (the rows in their order, with `part` and `score`), weights.json, and, where there is
    something to measure, metrics.json, a card and a report. Returns what metrics.json holds, `{}` where nothing was
    measured. Raises SettingsError, DataError, RefusedError.
    """
    if weights is not None and scores is not None:
        raise SettingsError("--weights names the predictions to fuse; leave --scores out.")
    if not 0 < tune_share < 1:
        raise SettingsError(f"--tune-share {tune_share:g}: a share between 0 and 1, without these, is needed.")
    given = None if weights is None else parse_weights(weights, form=form)
    goals = parse_goals(metrics)
    if source.is_dir():
        if user is not None:
            raise SettingsError(f"--user is about a table of predictions; {source} is a run, which knows its users.")
        rows, heads = of_run(source, device=choose_device(device), within=within, encoder=encoder)
    else:
        if encoder is not None:
            raise SettingsError(f"--encoder is about a run; {source} is a table of predictions.")
        table = read_table(source)
        rows = of_table(table, origin=str(source), user=user, within=within, tune_share=tune_share, seed=seed)
        heads = list(rows.predicted)
        rows = rows.all_tested() if given is not None else rows
    names = list(scores or heads) if given is None else list(given.weights)
    if unknown := [name for name in names if name not in rows.predicted]:
        option = "--scores" if given is None else "--weights"
        raise SettingsError(
            f"{option}: {source} has no prediction {unknown[0]!r}. {did_you_mean(unknown[0], rows.predicted)}"
        )
    if len(set(names)) < len(names):
        raise SettingsError(f"--scores {','.join(names)}: a prediction stands there twice.")
    measurable = bool(goals or rows.binary_labels())
    if given is None and not measurable:
        raise SettingsError(
            f"{source}: there is no column of labels 0 and 1 to tune by. Give a table that has some, or the weights "
            "with --weights."
        )
    if weights is not None and not goals:  # those that they were tuned by, as far as the labels are there
        goals = [goal for goal in parse_goals(noted_metrics(weights)) if goal.label in rows.labels]
    goals = goals or (default_goals(rows.binary_labels(), users=rows.users) if measurable else [])
    if given is None or measurable:
        rows.check(goals, parts=(TUNE, TEST) if given is None else (TEST,))
    resolved = {
        "source": source.name,
        "form": form or (given.form if given else "product"),
        "weights": None if given is None else given.weights,
        "scores": names,
        "metrics": {str(goal): goal.weight for goal in goals},
        **({} if given else {"trials": trials, "seed": seed}),
        **({} if given or source.is_dir() else {"tune_share": tune_share}),
        "list": within,
    }
    with output_folder(Path(output), stage="fuse", overwrite=overwrite, resume=resolved) as folder:
        began = time.perf_counter()
        tuned = None
        if given is None:
            tuned = tune(rows, names=names, goals=goals, form=form or "product", trials=trials, seed=seed)
        fusion = given if tuned is None else tuned.chosen.fusion
        assert fusion is not None
        seconds = time.perf_counter() - began
        with folder.file(SCORES) as path:
            pq.write_table(_fused(rows, fusion), path, compression="zstd")
        folder.write_text(WEIGHTS, fusion.to_json({"metrics": resolved["metrics"], "source": source.name}))
        found: dict[str, Any] = {}
        if goals:
            found = {"format_version": FORMAT_VERSION, "stage": "fuse"}
            found |= fusion_results(rows, fusion, goals=goals, tuned=tuned, seconds=seconds)
            again = f"peterrec fuse new.parquet --weights {shlex.quote(str(output / WEIGHTS))} -o new-fused"
            write_results(folder, found, title=f"Fused predictions of {source.name}", settings=resolved, usage=[again])
        folder.finish(inputs={"source": relative_to_run(source, folder.path)})
    return found


def _fused(rows: Predictions, fusion: Fusion) -> pa.Table:
    """The rows as they came, with the part that each is in and its score."""
    part = np.where(rows.tuned, TUNE, TEST)
    table = rows.table.drop_columns([name for name in ("part", "score") if name in rows.table.column_names])
    table = table.append_column("part", pa.array(part.tolist(), pa.string()))
    return table.append_column("score", pa.array(fusion.scores(rows.predicted)))
