"""What is published of a run, laid out in a folder of its own and ready to go."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peterrec.adapter_weights import WEIGHTS, Pairing
from peterrec.data.impressions.coding import FieldCoding
from peterrec.data.impressions.schema import Schema
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import RefusedError, SettingsError
from peterrec.hub.card import card, read_metrics
from peterrec.hub.contents import CARD, RUN, names_of
from peterrec.hub.item_names import Rename, paired_anew, renamed_encoder, renamed_vocabulary
from peterrec.hub.manifest import Manifest, write_manifest
from peterrec.hub.public_run import check_private, kind_of_run, public_run
from peterrec.run_record import read_run

CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class PublishedEncoder:
    """Where the encoder of an adapter is published: its repository (or its place as seen from the adapter's folder),
    the revision there, and which encoder that is, by weights and vocabulary."""

    repository: str
    revision: str
    pairing: Pairing
    place: str = ""

    @property
    def facts(self) -> dict[str, str]:
        """As run.json tells it."""
        told = {"repository": self.repository, "revision": self.revision} if not self.place else {"place": self.place}
        return {
            **told,
            "encoder_revision": self.pairing.encoder_revision,
            "vocabulary_fingerprint": self.pairing.vocabulary_fingerprint,
        }


@dataclass(frozen=True)
class Label:
    """What a card says beside what the run knows: the `name` it is published under, a licence, what the data are."""

    name: str
    licence: str | None = None
    dataset: str = "a private log"


def pack(
    run_folder: Path, into: Path, *, label: Label, encoder: PublishedEncoder | None, rename: Rename | None
) -> tuple[Manifest, Pairing]:
    """Writes what is published of the run into the empty folder `into`; returns its manifest and its encoder's names.

    `encoder` is where that of an adapter is published; `rename` turns item ids into what is published for them.

    Raises SettingsError for a run that is not published, RefusedError for one that would give away users or places.
    """
    run = read_run(run_folder)
    kind = kind_of_run(run, run_folder)
    needed, allowed = names_of(kind)
    for name in sorted(allowed - {RUN, CARD}):
        source = run_folder / name
        if source.is_file():
            shutil.copyfile(source, into / name)
        elif name in needed:
            raise RefusedError(f"{source} is missing, so the run is incomplete: make it again.")
    told = public_run(run, encoder=None if encoder is None else encoder.facts)
    if kind == "impressions":
        _refuse_users(run_folder)
    if kind == "encoder":
        pairing = Pairing.of(into) if rename is None else renamed_encoder(into, rename)
        told |= {"encoder_revision": pairing.encoder_revision, "vocabulary_fingerprint": pairing.vocabulary_fingerprint}
    else:
        pairing = Pairing("", "") if encoder is None else encoder.pairing
        fit_to(into, told["model"], pairing=pairing, rename=rename, kind=kind, folder=run_folder)
        if encoder is not None:
            _name_encoder(into, encoder)
    (into / RUN).write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    text = card(
        read_metrics(run_folder),
        kind=kind,
        name=label.name,
        settings=told["settings"],
        base_model=None if encoder is None or encoder.place else encoder.repository,
        licence=label.licence,
        dataset=label.dataset,
        counts=_counts(into),
    )
    (into / CARD).write_text(text, encoding="utf-8")
    check_private(into, run_folder=run_folder)
    return write_manifest(into, kind=kind), pairing


def fit_to(
    into: Path, facts: dict[str, Any], *, pairing: Pairing, rename: Rename | None, kind: str, folder: Path
) -> None:
    """Makes the weights in `into`, and what run.json says of them, those of the encoder `pairing` and of renamed items.

    Raises SettingsError for a task that tells of its items in other ways too.
    """
    if rename is not None:
        if kind == "impressions":
            raise SettingsError(
                f"{folder}: items are published under their ids as values of fields, so --anonymise-items is not for "
                "tasks on impressions. Hash the ids in the data before `peterrec prepare`."
            )
        if kind == "ranking":
            if (into / "item_features.parquet").is_file():
                raise SettingsError(
                    f"{folder}: what is known of its items (item_features) would tell which is which; "
                    "--anonymise-items is not for such a task."
                )
            facts["target_fingerprint"] = renamed_vocabulary(into / "target_vocabulary.parquet", rename).fingerprint
    here = Pairing(facts["encoder_revision"], facts["vocabulary_fingerprint"])
    if pairing == here:
        return
    paired_anew(into, pairing)
    facts["encoder_revision"] = pairing.encoder_revision
    facts["vocabulary_fingerprint"] = pairing.vocabulary_fingerprint
    if facts.get("weights"):
        weights = into / (WEIGHTS if (into / WEIGHTS).is_file() else "model.safetensors")
        facts["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest()


def _name_encoder(into: Path, encoder: PublishedEncoder) -> None:
    """Says in peft's configuration, too, where the encoder is; nothing that is built depends on it."""
    path = into / CONFIG
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        found["base_model_name_or_path"] = encoder.place or encoder.repository
        found["revision"] = None if encoder.place else encoder.revision
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _refuse_users(folder: Path) -> None:
    """A field that holds the users' ids would publish them, with a vector of each."""
    schema = Schema.from_json((folder / "schema.json").read_text(encoding="utf-8"), origin=str(folder / "schema.json"))
    user = schema.user
    if user is not None and user in FieldCoding.load(folder).names:
        raise RefusedError(
            f"{folder}: its field {user!r} holds the ids of users, which would be published with what was learned of "
            f'each. Train it without them, `--set features.without=["{user}"]` or without --field {user} in '
            "`peterrec prepare`; the encoder tells users apart by what they did."
        )


def _counts(into: Path) -> dict[str, int]:
    path = into / "vocabulary.parquet"
    if not path.is_file():
        return {}
    vocabulary = Vocabulary.load(path)
    return {"items": vocabulary.num_items, "events": int(vocabulary.counts.sum())}
