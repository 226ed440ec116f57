"""Where a fetched folder came from: `fetched.json`, written beside what was published, and never published itself."""

import json
from dataclasses import dataclass
from pathlib import Path

from peterrec.atomic import atomic_file
from peterrec.errors import RefusedError

FETCHED = "fetched.json"


@dataclass(frozen=True)
class Origin:
    """The repository and revision of a fetched folder, and, of an adapter, where its encoder stands (else "")."""

    repository: str
    revision: str
    encoder: str = ""


def write_origin(folder: Path, origin: Origin) -> None:
    """Notes in `folder` where it came from."""
    with atomic_file(folder / FETCHED) as path:
        path.write_text(json.dumps(vars(origin), indent=2) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin | None:
    """Where `folder` was fetched from, None where it was not. Raises RefusedError where the note is damaged."""
    path = Path(folder) / FETCHED
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Origin(*(str(found[name]) for name in ("repository", "revision", "encoder")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise RefusedError(f"{path}: damaged ({problem}); fetch it again.") from None
