"""Checkpoints that survive a kill at any moment: each is a folder that is complete or is not one."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor

from peterrec.atomic import (
    disk_errors,
    is_temporary,
    put_folder,
    remove,
    remove_temporaries,
    sync,
    temporary_path,
)
from peterrec.errors import RefusedError

FORMAT_VERSION = 1
KEPT = 2  # the newest and, should the disk lose it, the one before

_TENSORS = "tensors.safetensors"
_FACTS = "facts.json"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"^step-(\d{8,})(-replaced)?$")


class Checkpoint(NamedTuple):
    """The state of a run after `step` updates: tensors by name (on the CPU) and JSON facts."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def commit(folder: Path, *, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Path:
    """Write the checkpoint of `step` into `folder`, whole or not at all, then remove those before the last.

    A checkpoint of the same step is replaced. Raises `ResourceError` if the disk is full; the earlier
    checkpoints are intact then. `ValueError` for facts that JSON cannot hold.
    """
    target = folder / f"step-{step:08d}"
    with disk_errors(target), temporary_path(target) as temporary:
        temporary.mkdir(parents=True)
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, temporary / _TENSORS)
        (temporary / _FACTS).write_text(json.dumps(facts, allow_nan=False), encoding="utf-8")
        files = {name: _fingerprint(temporary / name) for name in (_TENSORS, _FACTS)}
        manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files}
        (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        if target.exists():
            # under a name that `load_latest` knows too, so that a kill between the renames loses nothing
            aside = target.with_name(f"{target.name}-replaced")
            remove(aside)
            target.replace(aside)
        put_folder(temporary, target)
        for old in _committed(folder)[KEPT:]:
            remove(old)
    return target


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint in `folder`, or None; what killed writers left is removed.

    Complete: every file has the size and SHA-256 of the manifest. Raises `RefusedError` for a checkpoint of a
    newer format.
    """
    if not folder.is_dir():
        return None
    remove_temporaries(folder)
    for path in _committed(folder):
        if (manifest := _verified(path)) is not None:
            facts = json.loads((path / _FACTS).read_text(encoding="utf-8"))
            return Checkpoint(manifest["step"], load_file(path / _TENSORS), facts)
        remove(path)
        sync(folder)
    return None


def _committed(folder: Path) -> list[Path]:
    """The checkpoints of a folder, the newest first, one being replaced behind its replacement."""
    found = []
    for path in folder.iterdir():
        if (match := _NAME.match(path.name)) and not is_temporary(path):
            found.append((-int(match[1]), match[2] is not None, path))
    return [path for *_, path in sorted(found)]


def _verified(path: Path) -> dict[str, Any] | None:
    """The manifest, if every file is as it says."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        version = manifest["format_version"]
        whole = all(_fingerprint(path / name) == known for name, known in manifest["files"].items())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if version > FORMAT_VERSION:
        raise RefusedError(
            f"{path}: a checkpoint of a newer peterrec (format {version}; this one reads up to "
            f"{FORMAT_VERSION}). Update peterrec or start afresh with --overwrite."
        )
    return manifest if whole else None


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
