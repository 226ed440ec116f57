"""`manifest.json`: every file of a published folder with its size and SHA-256, so that a changed one is noticed."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peterrec.atomic import atomic_file
from peterrec.errors import RefusedError, SettingsError
from peterrec.hub.contents import CARD, KINDS, MANIFEST, names_of

FORMAT = 1
LARGEST_MANIFEST = 1 << 20  # bytes


@dataclass(frozen=True)
class FileFact:
    """Size in bytes and SHA-256 (hex) of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a published folder holds: its `kind` and the facts of its files; `revision` is a digest over them."""

    kind: str
    files: dict[str, FileFact]

    @property
    def text(self) -> str:
        """manifest.json."""
        files = {name: vars(fact) for name, fact in sorted(self.files.items())}
        return json.dumps({"format_version": FORMAT, "kind": self.kind, "files": files}, indent=2) + "\n"

    @property
    def revision(self) -> str:
        """Forty hex digits over kind and files: which version of a folder this is."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:40]

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(fact.size for fact in self.files.values())


def write_manifest(folder: Path, *, kind: str) -> Manifest:
    """Writes the manifest of what stands in `folder`, which is what belongs to `kind` and nothing else."""
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    check_names(names, kind=kind, origin=str(folder))
    manifest = Manifest(kind, {name: _fact(folder / name) for name in names})
    with atomic_file(folder / MANIFEST) as path:
        path.write_text(manifest.text, encoding="utf-8")
    return manifest


def read_manifest(path: Path, *, origin: str) -> Manifest:
    """The manifest in the file `path`; `origin` is how messages call where it is from.

    Raises RefusedError where it is missing, damaged, of a newer format, or names files that such an artefact has not.
    """
    try:
        if path.stat().st_size > LARGEST_MANIFEST:
            raise RefusedError(f"{origin}: its {MANIFEST} is larger than a megabyte, which none of peterrec's is.")
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["format_version"]
        if isinstance(version, int) and version > FORMAT:
            raise RefusedError(
                f"{origin}: published by a newer peterrec (format {version}; this one reads up to {FORMAT}). Update "
                "peterrec."
            )
        files = {str(name): FileFact(int(fact["size"]), str(fact["sha256"])) for name, fact in found["files"].items()}
        manifest = Manifest(str(found["kind"]), files)
    except FileNotFoundError:
        raise SettingsError(
            f"{origin} was not published by peterrec: it has no {MANIFEST}. `peterrec publish RUN --to …` makes one."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RefusedError(f"{origin}: its {MANIFEST} is damaged ({problem!r}); fetch it again.") from None
    if manifest.kind not in KINDS:
        raise RefusedError(f"{origin} is of a kind {manifest.kind!r} that this version does not know: update peterrec.")
    check_names(manifest.files, kind=manifest.kind, origin=origin)
    return manifest


def check_names(names: Iterable[str], *, kind: str, origin: str) -> None:
    """Raises RefusedError where a file is not one that an artefact of this kind has, or one is missing.

    Known names alone are taken: nothing that could run, and nothing that could be written elsewhere.
    """
    needed, allowed = names_of(kind)
    given = set(names)
    if odd := sorted(given - allowed):
        raise RefusedError(f"{origin}: {odd[0]!r} is no file that peterrec publishes of kind {kind}; it is not taken.")
    if missing := sorted(needed - given):
        raise RefusedError(f"{origin}: {missing[0]} is missing, so it is incomplete; publish it again.")


def check_files(folder: Path, manifest: Manifest, *, origin: str) -> None:
    """Raises RefusedError unless the files in `folder` are, byte for byte, those of the manifest.

    The card may have been edited since: nothing reads it.
    """
    for name, fact in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise RefusedError(f"{origin}: {name} is missing; fetch or publish it again.")
        if name == CARD:
            continue
        size = path.stat().st_size
        if size != fact.size:
            raise RefusedError(
                f"{origin}: {name} has {size:,} bytes, and its {MANIFEST} says {fact.size:,}: it was cut off or "
                "changed. Fetch or publish it again."
            )
        if _fact(path).sha256 != fact.sha256:
            raise RefusedError(
                f"{origin}: {name} is not the file that was published (its SHA-256 is another one). Fetch or "
                "publish it again."
            )


def _fact(path: Path) -> FileFact:
    with path.open("rb") as file:
        return FileFact(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
