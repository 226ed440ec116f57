"""Paths as a user types them: `.` gets its name, outputs stand where files can be, folders are what they should be."""

import json
from pathlib import Path

import typer

from peterrec.errors import DataError, RefusedError, SettingsError


def named(path: Path | None) -> Path | None:
    """The path, or, where it has no name of its own (`.`, `..`), the absolute one."""
    if path is None or path.name not in ("", ".."):
        return path
    return path.resolve()


def artefact(path: Path | None) -> Path | None:
    """The folder of an encoder or adapter that a user named: a path, or `owner/name@revision`, which is fetched.

    What was published is held against its manifest. Raises what `peterrec.hub.fetching.fetch` does.
    """
    if path is None:
        return None
    if path.exists() and not (path / "manifest.json").is_file():
        return named(path)
    from peterrec.hub.reference import parse_reference

    reference = parse_reference(path)
    if reference.folder is not None and not reference.folder.exists():
        return path  # which the command will say it misses
    from peterrec.hub.fetching import fetch

    if reference.folder is None:
        typer.echo(f"{reference}: from the hub, or what was fetched of it before.", err=True)
    return named(fetch(reference))


def output_path(path: Path | None) -> Path | None:
    """A path to write to, with a name. Raises SettingsError where a file stands in its way."""
    path = named(path)
    if path is not None:
        for above in path.parents:
            if above.exists() and not above.is_dir():
                raise SettingsError(f"--output {path}: {above} is a file, not a folder; choose another place.")
    return path


def beside(path: Path, ending: str) -> Path:
    """The output that belongs to `path`: the same name with an `ending`. Raises SettingsError for the root."""
    if not path.name:
        raise SettingsError(f"{path} has no name to call an output after; choose one with --output.")
    return path.with_name(f"{path.name}{ending}")


def finished_run(path: Path, *, stage: str) -> Path:
    """The folder, if `stage` finished it. Raises SettingsError, RefusedError if its run.json is damaged."""
    from peterrec.run_record import read_run

    if not isinstance(read_run(path, stage=stage).get("inputs"), dict):
        raise RefusedError(f"{path / 'run.json'}: damaged (it names no inputs); make the run again.")
    return path


def impression_folder(path: Path) -> Path:
    """The folder, if `peterrec prepare --label` finished it. Raises SettingsError, RefusedError."""
    from peterrec.data.impressions import impression_folder as holds_impressions

    finished_run(path, stage="prepare")
    if not holds_impressions(path):
        raise SettingsError(
            f"{path} holds a log; a task on impressions learns from labelled rows of who was shown what: prepare them "
            "with `peterrec prepare --label`."
        )
    return path


def prepared_folder(path: Path) -> Path:
    """The folder, if `peterrec prepare` finished it on a log. Raises SettingsError, RefusedError, DataError."""
    from peterrec.data.impressions import impression_folder as holds_impressions

    finished_run(path, stage="prepare")
    if holds_impressions(path):
        raise SettingsError(
            f"{path} holds impressions, and a log is wanted; tasks of kind 'impressions' read them (`peterrec list "
            "tasks`)."
        )
    summary = path / "summary.json"
    try:
        missing = {"vocabulary", "split", "parts"} - json.loads(summary.read_text("utf-8")).keys()
    except (OSError, ValueError, AttributeError) as problem:
        raise DataError(f"{summary}: damaged ({problem}); prepare the log again.") from None
    if missing:
        raise DataError(f"{summary}: damaged (it lacks {', '.join(sorted(missing))}); prepare the log again.")
    return path


def encoder_folder(path: Path) -> Path:
    """The folder, if `peterrec pretrain` finished it. Raises SettingsError, RefusedError."""
    from peterrec.cli.options import ENCODER

    if path == ENCODER and not path.exists():
        raise SettingsError(
            f"There is no encoder in {ENCODER} yet; run `peterrec pretrain` first, or name one with --encoder."
        )
    return finished_run(path, stage="pretrain")
