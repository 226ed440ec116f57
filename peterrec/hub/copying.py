"""A fetched artefact as folders of one's own, under the true item ids where one has the salt."""

import json
import shutil
from pathlib import Path

from peterrec.adapter_weights import Pairing
from peterrec.atomic import atomic_file, disk_errors, put_folder, temporary_path
from peterrec.errors import SettingsError
from peterrec.hub.contents import MANIFEST, RUN
from peterrec.hub.item_names import Rename, renamed_encoder
from peterrec.hub.packing import fit_to
from peterrec.hub.public_run import kind_of_run
from peterrec.origin import Origin, read_origin, write_origin
from peterrec.run_record import read_run


def copy_fetched(folder: Path, *, output: Path, rename: Rename | None = None) -> list[Path]:
    """Copies what `fetch` gave to `output`, and the encoder of an adapter to `output` with `-encoder` behind it.

    `rename` turns published item ids into those of one's own data. Returns the folders. Raises SettingsError where
    something stands in their place.
    """
    run, origin = read_run(folder), read_origin(folder)
    kind = kind_of_run(run, folder)
    encoder = _encoder(folder, run, origin)
    places = [output] if encoder is None else [output, output.with_name(f"{output.name}-encoder")]
    for place in places:
        if place.exists():
            raise SettingsError(f"{place}: there is something of that name; choose another --output, or remove it.")
    output.parent.mkdir(parents=True, exist_ok=True)
    pairing = None
    if encoder is not None:
        pairing = _copy(encoder, places[1], kind="encoder", origin=read_origin(encoder), rename=rename, pairing=None)
    named = None if origin is None and encoder is None else _origin_of(origin, places)
    _copy(folder, output, kind=kind, origin=named, rename=rename, pairing=pairing)
    return places


def _encoder(folder: Path, run: dict, origin: Origin | None) -> Path | None:
    """Where the encoder of an adapter stands, None of anything else."""
    place = origin.encoder if origin is not None else (run.get("inputs") or {}).get("encoder", "")
    return (folder / place).resolve() if place else None


def _origin_of(origin: Origin | None, places: list[Path]) -> Origin:
    came = ("", "") if origin is None else (origin.repository, origin.revision)
    return Origin(*came, encoder=f"../{places[1].name}" if len(places) > 1 else "")


def _copy(
    source: Path, target: Path, *, kind: str, origin: Origin | None, rename: Rename | None, pairing: Pairing | None
) -> Pairing | None:
    """One folder; with `rename` its items are renamed, and its weights name the encoder `pairing`."""
    with disk_errors(target), temporary_path(target) as temporary:
        shutil.copytree(source, temporary)
        if rename is not None:
            (temporary / MANIFEST).unlink(missing_ok=True)  # these are no longer the files that were published
            run = json.loads((temporary / RUN).read_text(encoding="utf-8"))
            if kind == "encoder":
                pairing = renamed_encoder(temporary, rename)
                run |= vars_of(pairing)
            elif pairing is not None:
                fit_to(temporary, run["model"], pairing=pairing, rename=rename, kind=kind, folder=source)
            with atomic_file(temporary / RUN) as path:
                path.write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if origin is not None:
            write_origin(temporary, origin)
        put_folder(temporary, target)
    return pairing


def vars_of(pairing: Pairing) -> dict[str, str]:
    """As run.json of an encoder names it."""
    return {
        "encoder_revision": pairing.encoder_revision,
        "vocabulary_fingerprint": pairing.vocabulary_fingerprint,
    }
