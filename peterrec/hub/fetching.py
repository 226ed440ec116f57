"""Fetching what was published: named files alone, each checked, and the encoder of an adapter with it."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from peterrec.adapter_weights import Pairing
from peterrec.atomic import atomic_file, disk_errors, put_folder, temporary_path
from peterrec.errors import PeterrecError, RefusedError, ResourceError, SettingsError
from peterrec.hub import service
from peterrec.hub.contents import CARD, MANIFEST, RUN
from peterrec.hub.manifest import LARGEST_MANIFEST, Manifest, check_files, read_manifest
from peterrec.hub.reference import Reference, is_repository, parse_reference
from peterrec.origin import FETCHED, Origin, write_origin

LARGEST = 64 << 30  # bytes of one artefact, unless told otherwise
REVISIONS = "revisions.json"


def cache_folder() -> Path:
    """Where fetched folders stand: PETERREC_CACHE, else `peterrec` in the user's cache."""
    told = os.environ.get("PETERREC_CACHE")
    if told:
        return Path(told)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peterrec"


def fetch(reference: str | Path | Reference, *, largest: int = LARGEST) -> Path:
    """A folder with what `reference` names, checked; a folder of that name itself, else a copy in the cache.

    `owner/name@revision` is read from the hub once; its manifest says which files it has, and each is held against
    it. With an adapter comes its encoder, at the revision that it names. A folder that was published is checked in
    place. Nothing that is fetched is ever executed.

    Raises SettingsError for what is not there, RefusedError for what is damaged, changed, of another format or larger
    than `largest` bytes, ResourceError where the hub cannot be reached.
    """
    wanted = reference if isinstance(reference, Reference) else parse_reference(reference)
    if wanted.folder is not None:
        return _in_place(wanted)
    folder = _repository(wanted.name, revision=wanted.revision, largest=largest)
    named = _encoder_of(folder)
    if named is None:
        return folder
    return _with_encoder(folder, named, largest=largest)


def _in_place(wanted: Reference) -> Path:
    folder = wanted.folder
    assert folder is not None
    if not folder.is_dir():
        hint = "" if wanted.revision is None else " (a revision may follow an existing folder, or owner/name of a hub)"
        raise SettingsError(f"{folder}: there is no such folder{hint}.")
    if not (folder / MANIFEST).is_file():
        if wanted.revision is not None:
            raise SettingsError(f"{folder} was not published, so it has no revision: leave @{wanted.revision} out.")
        return folder
    manifest = read_manifest(folder / MANIFEST, origin=str(folder))
    check_files(folder, manifest, origin=str(folder))
    if wanted.revision is not None and not manifest.revision.startswith(wanted.revision):
        raise RefusedError(
            f"{folder} holds revision {manifest.revision[:12]}, not {wanted.revision}: it was published again since."
        )
    return folder


def _repository(name: str, *, revision: str | None, largest: int) -> Path:
    """The folder of a repository at a revision in the cache, downloaded where it is not there."""
    home = cache_folder() / name.replace("/", "--")
    known = _read_revisions(home)
    wanted = revision or "main"
    if (home / wanted / FETCHED).is_file():  # a commit that was fetched before never changes
        return _checked(home / wanted, origin=f"{name}@{wanted}")
    try:
        there = service.repository(name, revision=revision)
    except ResourceError as problem:
        if (commit := known.get(wanted)) and (home / commit / FETCHED).is_file():
            return _checked(home / commit, origin=f"{name}@{commit}")
        raise problem from None
    folder = home / there.revision
    if not (folder / FETCHED).is_file():
        _download(there, folder, largest=largest)
    with disk_errors(home):
        _write_revisions(home, known | {wanted: there.revision})
    return _checked(folder, origin=f"{name}@{there.revision}")


def _download(there: service.Repository, folder: Path, *, largest: int) -> None:
    """Downloads what the manifest names, checks it, and puts it into the cache as a whole."""
    origin = f"{there.name}@{there.revision[:12]}"
    if MANIFEST not in there.files:
        raise SettingsError(f"{origin} was not published by peterrec: it has no {MANIFEST}.")
    if (there.files[MANIFEST] or 0) > LARGEST_MANIFEST:
        raise RefusedError(f"{origin}: its {MANIFEST} is larger than a megabyte, which none of peterrec's is.")
    with disk_errors(folder), temporary_path(folder) as temporary:
        temporary.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".download-") as scratch:
            path = service.download(there.name, MANIFEST, revision=there.revision, into=Path(scratch))
            manifest = read_manifest(path, origin=origin)
            _check_sizes(there, manifest, largest=largest, origin=origin)
            for name in manifest.files:
                service.download(there.name, name, revision=there.revision, into=Path(scratch))
            check_files(Path(scratch), manifest, origin=origin)
            for name in (*manifest.files, MANIFEST):
                shutil.move(Path(scratch) / name, temporary / name)
        write_origin(temporary, Origin(there.name, there.revision))
        put_folder(temporary, folder)


def _check_sizes(there: service.Repository, manifest: Manifest, *, largest: int, origin: str) -> None:
    """Before anything large is downloaded: sizes as told by manifest and server, and their sum."""
    for name, fact in manifest.files.items():
        if name not in there.files:
            raise RefusedError(f"{origin}: {name} is missing, so it is incomplete; publish it again.")
        size = there.files[name]
        if name == CARD and (size or 0) > LARGEST_MANIFEST:
            raise RefusedError(f"{origin}: its {CARD} is larger than a megabyte; it is not taken.")
        if name != CARD and size is not None and size != fact.size:
            raise RefusedError(
                f"{origin}: {name} has {size:,} bytes, and its {MANIFEST} says {fact.size:,}: it was changed since."
            )
    if manifest.size > largest:
        raise RefusedError(
            f"{origin} has {manifest.size / 2**30:.1f} GiB, more than the {largest / 2**30:.1f} GiB that are "
            "taken; raise the limit with --largest if you trust it."
        )


def _checked(folder: Path, *, origin: str) -> Path:
    check_files(folder, read_manifest(folder / MANIFEST, origin=origin), origin=origin)
    return folder


def _encoder_of(folder: Path) -> dict[str, Any] | None:
    """What a fetched adapter says of its encoder; None of an encoder, or of a model without one."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
        named = run["published"].get("encoder")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as problem:
        raise RefusedError(f"{folder / RUN}: damaged ({problem!r}); fetch it again.") from None
    return named if isinstance(named, dict) else None


def _with_encoder(folder: Path, named: dict[str, Any], *, largest: int) -> Path:
    """Fetches the encoder of a fetched adapter and notes where it stands; refuses another one than it names."""
    name, revision = str(named.get("repository", "")), str(named.get("revision", ""))
    if not is_repository(name) or not revision or parse_reference(f"{name}@{revision}").folder is not None:
        raise RefusedError(
            f"{folder}: it names no repository of its encoder, but {name or named.get('place')!r}; an adapter on a hub "
            "names one there. Give the encoder with --encoder, or publish the adapter again."
        )
    try:
        encoder = _repository(name, revision=revision, largest=largest)
    except PeterrecError as problem:
        raise type(problem)(f"the encoder of {folder.parent.name.replace('--', '/')}: {problem}") from None
    wanted = Pairing(str(named.get("encoder_revision")), str(named.get("vocabulary_fingerprint")))
    if Pairing.of(encoder) != wanted:
        raise RefusedError(
            f"{name}@{revision} is the encoder {Pairing.of(encoder)}, and the adapter wants {wanted}: they do not "
            "belong together."
        )
    held = json.loads((folder / FETCHED).read_text(encoding="utf-8"))
    place = os.path.relpath(encoder, folder)
    if held.get("encoder") != place:
        write_origin(folder, Origin(held["repository"], held["revision"], encoder=place))
    return folder


def _read_revisions(home: Path) -> dict[str, str]:
    try:
        found = json.loads((home / REVISIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing fetched yet, or a note that the next fetch writes again
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _write_revisions(home: Path, known: dict[str, str]) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with atomic_file(home / REVISIONS) as path:
        path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
