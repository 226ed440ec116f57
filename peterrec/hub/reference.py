"""The names of what is published: `owner/name@revision` on a hub, or a folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from peterrec.errors import SettingsError

# as the Hub has them: letters, digits, - _ . between; no part begins or ends with . or -, and there is no ..
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_REVISION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Reference:
    """A repository on a hub (`name`, with the `revision` that was asked for), or a `folder`."""

    name: str
    revision: str | None = None
    folder: Path | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def parse_reference(text: str | Path) -> Reference:
    """What a user named: a folder where one of that name exists, or where it reads like a path; else a repository.

    `owner/name` is a path where the folder `owner` exists, so that a run that is not there yet is never looked for on
    a hub. `@revision` follows either. Raises SettingsError for what can be neither.
    """
    given = str(text)
    if Path(given).expanduser().exists():
        return Reference(given, folder=Path(given).expanduser())
    name, at, revision = given.rpartition("@")
    if not at:
        name, revision = given, ""
    if at and not revision:
        raise SettingsError(f"{given}: there is nothing behind the @; name a revision, or leave the @ out.")
    if at and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise SettingsError(f"{given}: {revision!r} is no name of a revision (a commit, tag or branch).")
    chosen = revision or None
    if is_repository(name):
        return Reference(name, chosen)
    return Reference(name, chosen, folder=Path(name).expanduser())


def is_repository(name: str) -> bool:
    """Whether a name is that of a repository on a hub and not a path: `owner/name`, and there is no folder `owner`."""
    if not _REPOSITORY.fullmatch(name) or ".." in name or "--" in name:
        return False
    owner = name.partition("/")[0]
    return owner != "runs" and not Path(owner).exists()
