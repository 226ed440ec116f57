"""The output folder of a stage: locked in use, never half-written, finished once `run.json` is there."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peterrec.atomic import (
    atomic_file,
    disk_errors,
    is_temporary,
    put_folder,
    readable,
    remove,
    remove_temporaries,
    sync,
    sync_tree,
    temporary_path,
)
from peterrec.errors import SettingsError
from peterrec.lock import LOCK_FILES, locked
from peterrec.run_record import FORMAT_VERSION, RUN, UNFINISHED
from peterrec.setting_changes import how_to_go_on, setting_changes

_CHECKPOINTS = "checkpoints"


class RunFolder:
    """A locked output folder; what an earlier run left in it goes when this one first writes.

    `resumed` says that an interrupted run with the same settings left its work here.
    """

    def __init__(self, path: Path, *, stage: str, settings: dict[str, Any] | None, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        self._stage = stage
        self._settings = settings
        self._begun = resumed

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A temporary path (same suffix) that becomes `<path>/<name>` when the block ends well."""
        target = self.path / name
        with disk_errors(target), temporary_path(self.path / target.name) as temporary:
            yield temporary
            sync(temporary)
            self._begin()
            self._put(temporary, target)

    @contextmanager
    def files(self) -> Iterator[Path]:
        """A temporary folder; when the block ends well its files move into the run's folder, one by one."""
        with disk_errors(self.path), temporary_path(self.path / "files") as temporary:
            temporary.mkdir()
            yield temporary
            sync_tree(temporary)
            self._begin()
            for source in sorted(p for p in temporary.rglob("*") if p.is_file()):
                self._put(source, self.path / source.relative_to(temporary))

    @contextmanager
    def folder(self, name: str) -> Iterator[Path]:
        """A temporary folder that becomes `<path>/<name>` as a whole when the block ends well."""
        target = self.path / name
        with disk_errors(target), temporary_path(self.path / target.name) as temporary:
            temporary.mkdir()
            yield temporary
            self._begin()
            target.parent.mkdir(parents=True, exist_ok=True)
            put_folder(temporary, target)

    def working_folder(self, name: str) -> Path:
        """`<path>/<name>`, made if missing, for what is written while the stage runs (a tracker's files)."""
        self._begin()
        (self.path / name).mkdir(parents=True, exist_ok=True)
        return self.path / name

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints; `finish` removes it."""
        return self.working_folder(_CHECKPOINTS)

    def write_json(self, name: str, value: object) -> None:
        """Write `value` as JSON; `ValueError` for what JSON cannot hold (NaN, unknown types)."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write `text` in UTF-8."""
        with self.file(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def finish(self, **facts: object) -> None:
        """Write `run.json`, which makes the run a finished one, then remove what only a resume needs.

        `facts` (`inputs`, figures, ...) stand beside the format, stage, version and resolved settings.
        """
        known = {"format_version": FORMAT_VERSION, "stage": self._stage, "peterrec": _own_version()}
        self.write_json(RUN, {**known, "settings": self._settings or {}, **facts})
        _remove_leftovers(self.path)

    def _begin(self) -> None:
        """Before the first write: remove what an earlier run left, then say whose work this is."""
        if self._begun:
            return
        # Killed anywhere in here, the folder stays recognisably ours and the next run clears on: first comes
        # a note with settings that equal no run's, then run.json goes (an old run is whole or unfinished).
        self._write_unfinished(None)
        (self.path / RUN).unlink(missing_ok=True)
        sync(self.path)
        for entry in self.path.iterdir():
            if entry.name not in LOCK_FILES | {UNFINISHED} and not is_temporary(entry):
                remove(entry)
        self._write_unfinished(self._settings)
        self._begun = True

    def _write_unfinished(self, settings: dict[str, Any] | None) -> None:
        _write_json(self.path / UNFINISHED, {"stage": self._stage, "settings": settings})

    def _put(self, source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        readable(source)
        source.replace(target)
        sync(target.parent)


@contextmanager
def output_folder(
    path: Path,
    *,
    stage: str,
    overwrite: bool = False,
    resume: dict[str, Any] | None = None,
    may_differ: Collection[str] = (),
) -> Iterator[RunFolder]:
    """Lock `path` for one run of `stage` and hand it out; its content changes only when the run first writes.

    `resume` is the run's resolved settings (JSON values): if an interrupted run with equal ones left its
    work, that stays; those that `may_differ` (`a.b`) need not be equal. A run that fails before it wrote
    anything leaves no folder behind if there was none.

    Raises `BusyError` if another process writes there, `SettingsError` if the folder holds a finished run or
    one interrupted under other settings (and not `overwrite`), one of another stage, or something that is no run at
    all, and `ResourceError` if the disk is full or may not be written.
    """
    path = Path(path)
    settings = None if resume is None else json.loads(json.dumps(resume))
    with disk_errors(path):
        existed = _is_ours_or_free(path)
        path.mkdir(parents=True, exist_ok=True)
        with locked(path):
            try:
                resumed = _may_write(path, stage=stage, overwrite=overwrite, settings=settings, free=may_differ)
                remove_temporaries(path)
                yield RunFolder(path, stage=stage, settings=settings, resumed=resumed)
            except BaseException:
                if not existed and {p.name for p in path.iterdir()} <= LOCK_FILES:
                    with suppress(OSError):  # an empty folder is no harm, and the reason is on its way
                        remove(path)
                raise


def _is_ours_or_free(path: Path) -> bool:
    """Whether the folder exists; refuses one that holds something else before a lock is put into it."""
    if path.exists() and not path.is_dir():
        raise SettingsError(f"{path}: there is a file of that name; choose another output folder.")
    if not path.exists():
        return False
    names = {p.name for p in path.iterdir() if not is_temporary(p)}
    foreign = names - LOCK_FILES
    if foreign and not names & {RUN, UNFINISHED}:
        raise SettingsError(
            f"{path}: not empty and not the output of a run (it holds {', '.join(sorted(foreign)[:3])}); "
            "choose an empty or a new folder."
        )
    return True


def _may_write(
    path: Path, *, stage: str, overwrite: bool, settings: dict[str, Any] | None, free: Collection[str]
) -> bool:
    """Whether there is an interrupted run to go on with; raises `SettingsError` if the content must stay."""
    if (path / RUN).exists():
        _remove_leftovers(path)  # of a run that was killed right after it finished
        if not overwrite:
            raise SettingsError(f"{path}: holds a finished run; add --overwrite or choose another folder.")
        _refuse_another_stage(path, stage)
        return False
    if settings is None or not (path / UNFINISHED).exists():
        return False
    before = json.loads((path / UNFINISHED).read_text(encoding="utf-8"))
    if before["settings"] is None:
        return False
    changes = setting_changes({"stage": before["stage"], **before["settings"]}, {"stage": stage, **settings}, free=free)
    if changes and not overwrite:
        raise SettingsError(
            f"{path}: holds a run that was interrupted under other settings: {'; '.join(map(str, changes))}. "
            f"{how_to_go_on(changes)}, add --overwrite to start afresh, or choose another folder."
        )
    return not changes


def _refuse_another_stage(path: Path, stage: str) -> None:
    """Before a run is overwritten: an encoder is not, by a fine-tuning that only names it as its output by mistake."""
    try:
        run = json.loads((path / RUN).read_text(encoding="utf-8"))
    except ValueError:  # damaged: nobody can use it
        return
    if isinstance(run, dict) and run.get("stage") not in (None, stage):
        raise SettingsError(
            f"{path}: holds the output of `peterrec {run['stage']}`, which --overwrite does not replace by one of "
            f"`peterrec {stage}`; choose another folder, or remove this one."
        )


def _write_json(path: Path, value: object) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _remove_leftovers(path: Path) -> None:
    remove(path / UNFINISHED)
    remove(path / _CHECKPOINTS)


def _own_version() -> str:
    try:
        return version("peterrec")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
