"""`peterrec list`: the recipes that there are, and the finished runs below a folder."""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from peterrec.catalogue import KINDS, describe, names
from peterrec.errors import PeterrecError, SettingsError, did_you_mean
from peterrec.report.reading import estimate, label_of
from peterrec.run_record import read_run

RUNS = "runs"
LISTS = (*KINDS, RUNS)


class Entry(NamedTuple):
    """A recipe (`adapters`, `tasks`) and what it is, or a run with its stage, its end and its main figure."""

    kind: str
    name: str
    what: str
    stage: str = ""
    date: str = ""


def run(kind: str | None = None, *, folder: Path = Path("runs")) -> list[Entry]:
    """The entries of a kind (adapters, tasks, runs), or of all; runs are those below `folder`, newest first.

    Raises SettingsError for an unknown kind, and where runs are asked for and there is no such folder.
    """
    if kind is not None and kind not in LISTS:
        raise SettingsError(f"unknown list {kind!r}. {did_you_mean(kind, LISTS)}")
    if kind == RUNS and not folder.is_dir():
        raise SettingsError(f"{folder}: there is no such folder; give the one that holds your runs.")
    entries = [
        Entry(recipes, name, describe(recipes, name).partition("\n")[0])
        for recipes in KINDS
        if kind in (None, recipes)
        for name in names(recipes)
    ]
    if kind in (None, RUNS):
        entries += sorted(_runs(folder), key=lambda entry: (entry.date, entry.name), reverse=True)
    return entries


def _runs(folder: Path) -> Iterator[Entry]:
    for below, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # half-written ones
        if "run.json" in files:
            yield _entry(Path(below))


def _entry(path: Path) -> Entry:
    ended = datetime.fromtimestamp((path / "run.json").stat().st_mtime)
    date = ended.isoformat(sep=" ", timespec="seconds")
    try:
        stage = str(read_run(path).get("stage", "?"))
    except PeterrecError as error:  # one damaged run must not hide the others
        return Entry(RUNS, str(path), str(error), "?", date)
    return Entry(RUNS, str(path), main_figure(path), stage, date)


def main_figure(path: Path) -> str:
    """The main metric of a run's first result in words, or nothing where there is none."""
    try:
        metrics = json.loads((path / "metrics.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except ValueError as error:
        return f"metrics.json is damaged ({error})"
    metric = metrics.get("metric")
    for result in _models(metrics):
        figure = result.get("metrics", {}).get(metric)
        if isinstance(figure, dict):
            return f"{result['name']}: {label_of(metric)} {estimate(figure)}"
    return ""


def _models(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for result in metrics.get("results", []) if result.get("role") == "model"]
