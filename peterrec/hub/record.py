"""`published.json` in a run's folder: where the run was published, so that adapters can name their encoder there."""

import json
from dataclasses import dataclass
from pathlib import Path

from peterrec.adapter_weights import Pairing
from peterrec.atomic import atomic_file
from peterrec.errors import RefusedError

PUBLISHED = "published.json"


@dataclass(frozen=True)
class Publication:
    """One place where a run stands: a repository (or a folder's absolute path), its revision, and which encoder it is
    there, by weights and vocabulary (that of the run itself, but where items were renamed)."""

    to: str
    revision: str
    folder: bool
    anonymised: bool
    encoder_revision: str
    vocabulary_fingerprint: str

    @property
    def pairing(self) -> Pairing:
        """Which encoder stands there."""
        return Pairing(self.encoder_revision, self.vocabulary_fingerprint)


def read_publications(folder: Path) -> list[Publication]:
    """Where the run in `folder` was published, the last one first. Raises RefusedError where the record is damaged."""
    path = folder / PUBLISHED
    try:
        return [Publication(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as problem:
        raise RefusedError(f"{path}: damaged ({problem}); remove it and publish again.") from None


def record(folder: Path, made: Publication) -> None:
    """Notes a publication; an earlier one to the same place goes."""
    others = [one for one in read_publications(folder) if one.to != made.to]
    with atomic_file(folder / PUBLISHED) as path:
        path.write_text(json.dumps([vars(one) for one in (made, *others)], indent=2) + "\n", encoding="utf-8")
