"""Publishing a run: to a repository in one commit, or to a folder in one rename."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from peterrec.adapter_weights import Pairing
from peterrec.atomic import disk_errors, put_folder, temporary_path
from peterrec.errors import RefusedError, SettingsError
from peterrec.hub import service
from peterrec.hub.contents import MANIFEST
from peterrec.hub.item_names import Rename, hashing
from peterrec.hub.manifest import Manifest, check_files, read_manifest
from peterrec.hub.packing import Label, PublishedEncoder, pack
from peterrec.hub.public_run import kind_of_run
from peterrec.hub.record import Publication, read_publications, record
from peterrec.hub.reference import Reference, parse_reference
from peterrec.origin import read_origin
from peterrec.run_record import read_run


@dataclass(frozen=True)
class Published:
    """What was published: where, which revision, its kind and files; `changed`: it did not stand there yet."""

    to: str
    revision: str
    kind: str
    manifest: Manifest
    changed: bool


def publish(
    run_folder: Path,
    *,
    to: str | Path,
    public: bool = False,
    licence: str | None = None,
    dataset: str = "a private log",
    message: str | None = None,
    tag: str | None = None,
    salt: bytes | None = None,
    encoder: str | Path | None = None,
) -> Published:
    """Publishes a finished run of `pretrain` or `finetune`; what loading needs, the card, and nothing else.

    `to` is `owner/name` on the hub, or a folder. A new repository is private unless `public`. An adapter names its
    encoder where that was published (the last place of the same sort), or `encoder`. With `salt` item ids are
    published as hashes. The same content is not published twice.

    Raises SettingsError for a run or place that will not do, RefusedError where users, rows or paths would go along,
    BusyError where someone else has written in the meantime, ResourceError where the hub cannot be reached.
    """
    run_folder = Path(run_folder)
    target = parse_reference(to)
    if target.revision is not None:
        raise SettingsError(f"--to {to}: a revision is what publishing makes; leave @{target.revision} out.")
    kind = kind_of_run(read_run(run_folder), run_folder)
    rename = None if salt is None else hashing(salt)
    with tempfile.TemporaryDirectory(prefix="peterrec-") as scratch:
        staged = Path(scratch) / "published"
        staged.mkdir()
        found = None
        if kind != "encoder" and _has_encoder(run_folder):
            found = _encoder(run_folder, target, named=encoder, anonymised=salt is not None)
        elif encoder is not None:
            raise SettingsError(f"--encoder: {run_folder} is none that has an encoder beside it; leave the option out.")
        label = Label(_shown(target), licence, dataset)
        manifest, pairing = pack(run_folder, staged, label=label, encoder=found, rename=rename)
        if target.folder is None:
            revision, changed = _commit(target.name, staged, manifest, public=public, message=message, tag=tag)
        else:
            if tag is not None:
                raise SettingsError("--tag: a folder has no tags; leave it out, or publish to a hub.")
            revision, changed = _place(target.folder, staged, manifest, rename=rename)
    made = Publication(
        to=_address(target),
        revision=revision,
        folder=target.folder is not None,
        anonymised=salt is not None,
        encoder_revision=pairing.encoder_revision,
        vocabulary_fingerprint=pairing.vocabulary_fingerprint,
    )
    record(run_folder, made)
    return Published(_shown(target), revision, kind, manifest, changed)


def _commit(
    name: str, staged: Path, manifest: Manifest, *, public: bool, message: str | None, tag: str | None
) -> tuple[str, bool]:
    """One commit, or none where the repository holds just this."""
    there = service.create(name, private=not public)
    before: Manifest | None = None
    if MANIFEST in there.files:
        with tempfile.TemporaryDirectory(prefix="peterrec-") as scratch:
            path = service.download(name, MANIFEST, revision=there.revision, into=Path(scratch))
            before = read_manifest(path, origin=f"{name} on the hub")
        if before == manifest:
            return there.revision, False
        if before.kind != manifest.kind:
            raise SettingsError(
                f"{name} holds an artefact of kind {before.kind}, and this is one of kind {manifest.kind}: publish it "
                "under another name."
            )
    elif held := [file for file in there.files if file not in (".gitattributes", "README.md")]:
        raise SettingsError(
            f"{name} holds what peterrec did not publish ({', '.join(sorted(held)[:3])}): choose another name."
        )
    files = [*manifest.files, MANIFEST]
    stale = sorted((set() if before is None else set(before.files)) & set(there.files) - set(files))
    told = message or f"peterrec: {manifest.kind}"
    return service.commit(there, staged, files=files, stale=stale, message=told, tag=tag), True


def _place(folder: Path, staged: Path, manifest: Manifest, *, rename: Rename | None) -> tuple[str, bool]:
    """One rename, or none where the folder holds just this."""
    if folder.exists():
        if not folder.is_dir():
            raise SettingsError(f"--to {folder}: there is a file of that name; choose another folder.")
        if any(folder.iterdir()):
            if not (folder / MANIFEST).is_file():
                raise SettingsError(
                    f"--to {folder}: not empty, and not published by peterrec; choose an empty or a new folder."
                )
            before = read_manifest(folder / MANIFEST, origin=str(folder))
            if before == manifest and _whole(folder, before):
                return manifest.revision, False
            if before.kind != manifest.kind:
                raise SettingsError(
                    f"--to {folder}: holds an artefact of kind {before.kind}, and this is one of kind {manifest.kind}: "
                    "choose another folder."
                )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder), temporary_path(folder.parent / folder.name) as temporary:
        temporary.mkdir()
        for path in staged.iterdir():
            (temporary / path.name).write_bytes(path.read_bytes())
        put_folder(temporary, folder)
    return manifest.revision, True


def _whole(folder: Path, manifest: Manifest) -> bool:
    try:
        check_files(folder, manifest, origin=str(folder))
    except RefusedError:
        return False
    return True


def _has_encoder(run_folder: Path) -> bool:
    model = read_run(run_folder).get("model")
    return isinstance(model, dict) and bool(model.get("encoder_revision"))


def _encoder(run_folder: Path, target: Reference, *, named: str | Path | None, anonymised: bool) -> PublishedEncoder:
    """Where the encoder of an adapter is published, as seen from where the adapter will be."""
    run = read_run(run_folder)
    own = Pairing(run["model"]["encoder_revision"], run["model"]["vocabulary_fingerprint"])
    if named is not None:
        return _named(parse_reference(named), target, own=own, anonymised=anonymised)
    folder = (run_folder / str(run.get("inputs", {}).get("encoder", ""))).resolve()
    in_folder = target.folder is not None
    origin = read_origin(folder) if folder.is_dir() else None
    if origin is not None and not in_folder and not anonymised:
        return PublishedEncoder(origin.repository, origin.revision, own)
    for one in read_publications(folder) if folder.is_dir() else ():
        if one.folder == in_folder and one.anonymised == anonymised:
            if one.anonymised or one.pairing == own:
                return _at(one, target)
            raise RefusedError(
                f"{run_folder} was trained on the encoder {own}, but {one.to} holds {one.pairing}: the encoder was "
                "trained again since. Publish that of the adapter, or fine-tune again."
            )
    beside = Path(target.name.partition("/")[0]) if target.folder is None else target.folder.parent
    where = beside / "encoder"
    flag = " --anonymise-items --salt FILE" if anonymised else ""
    raise SettingsError(
        f"{run_folder}: its encoder is not published to {'a folder' if in_folder else 'the hub'} yet"
        f"{' under hashed items' if anonymised else ''}. First `peterrec publish {_short(folder)} --to {where}{flag}`, "
        "or say where it is with --encoder."
    )


def _at(one: Publication, target: Reference) -> PublishedEncoder:
    if target.folder is None:
        return PublishedEncoder(one.to, one.revision, one.pairing)
    place = os.path.relpath(one.to, target.folder.resolve())
    if Path(place).is_absolute() or len(Path(place).parts) > 3:
        raise SettingsError(
            f"its encoder stands in {one.to}, and --to {target.folder} is elsewhere: publish both below one folder, so "
            "that they can be moved and shared together."
        )
    return PublishedEncoder("", "", one.pairing, place=Path(place).as_posix())


def _named(reference: Reference, target: Reference, *, own: Pairing, anonymised: bool) -> PublishedEncoder:
    """An encoder that the user says: read there, and checked to be the one that the adapter was trained on."""
    from peterrec.hub.fetching import fetch

    folder = fetch(reference)
    there = Pairing.of(folder)
    if there != own and not anonymised:
        raise RefusedError(f"--encoder {reference} holds {there}, but the adapter was trained on {own}.")
    if reference.folder is None:
        origin = read_origin(folder)
        assert origin is not None
        if target.folder is not None:
            raise SettingsError(f"--encoder {reference} is on a hub, and --to a folder: publish both in one of them.")
        return PublishedEncoder(origin.repository, origin.revision, there)
    made = Publication(str(reference.folder.resolve()), "", True, anonymised, *_names(there))
    if target.folder is None:
        raise SettingsError(f"--encoder {reference} is a folder, and --to a hub: publish the encoder there first.")
    return _at(made, target)


def _names(pairing: Pairing) -> tuple[str, str]:
    return pairing.encoder_revision, pairing.vocabulary_fingerprint


def _shown(target: Reference) -> str:
    """How the card calls the place: of a folder its name alone."""
    return target.name if target.folder is None else target.folder.resolve().name


def _address(target: Reference) -> str:
    return target.name if target.folder is None else str(target.folder.resolve())


def _short(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
