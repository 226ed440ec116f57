"""What an owner has published, or what one repository or folder holds."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from peterrec.errors import SettingsError
from peterrec.hub import service
from peterrec.hub.contents import MANIFEST
from peterrec.hub.manifest import Manifest, read_manifest
from peterrec.hub.reference import is_repository, parse_reference
from peterrec.report.reading import size


@dataclass(frozen=True)
class Listed:
    """One artefact: its name, kind, revision (twelve digits), and its size or state in words."""

    name: str
    kind: str
    revision: str
    what: str


def listing(name: str) -> list[Listed]:
    """The artefacts that a name stands for: a repository's, an owner's, a folder's or those right below a folder.

    Raises SettingsError where there is none, ResourceError where the hub cannot be reached.
    """
    wanted = parse_reference(name)
    if wanted.folder is not None and wanted.folder.is_dir():
        places = [place for place in (wanted.folder, *sorted(wanted.folder.iterdir())) if (place / MANIFEST).is_file()]
        if not places:
            raise SettingsError(f"{name}: nothing in it was published by peterrec.")
        return [_listed(str(place), read_manifest(place / MANIFEST, origin=str(place)), "") for place in places]
    if is_repository(wanted.name):
        there = service.repository(wanted.name, revision=wanted.revision)
        if MANIFEST not in there.files:
            raise SettingsError(f"{there.name} was not published by peterrec: it has no {MANIFEST}.")
        with tempfile.TemporaryDirectory(prefix="peterrec-") as scratch:
            path = service.download(there.name, MANIFEST, revision=there.revision, into=Path(scratch))
            manifest = read_manifest(path, origin=there.name)
        return [_listed(there.name, manifest, there.revision, private=there.private)]
    if "/" in name:
        raise SettingsError(f"{name}: there is no such folder, and it is no name of a repository (owner/name).")
    found = service.owned(name)
    if not found:
        raise SettingsError(f"{name} has published nothing with peterrec that you may see.")
    return [Listed(one.name, one.kind, "", f"{'private, ' * one.private}{one.changed}") for one in found]


def _listed(name: str, manifest: Manifest, revision: str, *, private: bool = False) -> Listed:
    told = f"{'private, ' * private}{len(manifest.files)} files, {size(manifest.size)}"
    return Listed(name, manifest.kind, (revision or manifest.revision)[:12], told)
