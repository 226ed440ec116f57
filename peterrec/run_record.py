"""What a finished run says of itself in `run.json`, and where its data are."""

import json
import os
from pathlib import Path
from typing import Any

from peterrec.errors import RefusedError, SettingsError

FORMAT_VERSION = 1

RUN = "run.json"
UNFINISHED = "unfinished.json"  # of a run that is under way, or was interrupted


def read_run(path: Path, *, stage: str | None = None) -> dict[str, Any]:
    """The `run.json` of a finished run, of `stage` if given.

    Raises `SettingsError` if there is no finished run or it is of another stage, `RefusedError` if the file
    is damaged or of a newer format.
    """
    path = Path(path)
    wanted = f" of `peterrec {stage}`" if stage else ""
    if not path.is_dir():
        raise SettingsError(f"{path}: there is no such folder; give the output folder{wanted}.")
    try:
        run = json.loads((path / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if (path / UNFINISHED).exists():
            raise SettingsError(
                f"{path}: this run is not finished (there is no {RUN}); run the same command to go on."
            ) from None
        raise SettingsError(f"{path}: not an output folder{wanted} (there is no {RUN}).") from None
    except ValueError as problem:
        raise RefusedError(f"{path / RUN}: damaged ({problem}); make the run again.") from None
    if not isinstance(run, dict) or not isinstance(run.get("format_version"), int):
        raise RefusedError(f"{path / RUN}: damaged (no format_version); make the run again.")
    if run["format_version"] > FORMAT_VERSION:
        raise RefusedError(
            f"{path / RUN}: written by a newer peterrec ({run.get('peterrec', '?')}, format "
            f"{run['format_version']}; this one reads up to {FORMAT_VERSION}). Update peterrec."
        )
    if stage is not None and run.get("stage") != stage:
        raise SettingsError(
            f"{path}: the output of `peterrec {run.get('stage')}`; here one of `peterrec {stage}` is needed."
        )
    return run


def data_of(path: Path, run: dict[str, Any]) -> Path:
    """The prepared log that the run in `path` was made with; `run` is its run.json.

    It is recorded relative to the run's folder (`relative_to_run`), by older versions also relative to the working
    directory; a place that exists wins. Raises `RefusedError` where nothing is recorded, `SettingsError` for a
    published run, which names no data.
    """
    inputs = run.get("inputs")
    recorded = inputs.get("data") if isinstance(inputs, dict) else None
    if recorded is None and "published" in run:
        raise SettingsError(f"{path} was published, which takes no data along: name a prepared folder with --data.")
    if not isinstance(recorded, str):
        raise RefusedError(f"{path / RUN}: damaged (it names no inputs.data); make the run again.")
    own = path / recorded
    return Path(recorded) if not own.exists() and Path(recorded).exists() else own


def relative_to_run(target: Path, folder: Path) -> str:
    """`target` as a run in `folder` records it, so that both may move together; absolute on another drive."""
    try:
        return os.path.relpath(os.path.realpath(target), os.path.realpath(folder))
    except ValueError:
        return os.path.realpath(target)
