"""The one door to `huggingface_hub`: what a repository holds, one commit to it, its files; errors a person can use.

The endpoint is `HF_ENDPOINT`, the token is taken from where `hf auth login` and `HF_TOKEN` leave it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from peterrec.errors import BusyError, RefusedError, ResourceError, SettingsError

# what the client's own client raises where there is no connection; its package has changed names
_NO_CONNECTION: type[BaseException] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may"


@dataclass(frozen=True)
class Repository:
    """A repository at one commit: the sizes of its `files` in bytes, None where the server does not tell."""

    name: str
    revision: str
    files: dict[str, int | None]
    private: bool


@dataclass(frozen=True)
class Found:
    """A repository in a list: its kind as its tags have it, and when it was changed."""

    name: str
    kind: str
    changed: str
    private: bool


def repository(name: str, *, revision: str | None = None) -> Repository:
    """What stands in a repository at a commit, tag or branch (None: main). Raises SettingsError, ResourceError."""
    with _told(name, doing="read", revision=revision):
        info = HfApi().model_info(name, revision=revision, files_metadata=True)
    assert info.sha is not None
    files = {one.rfilename: one.size for one in info.siblings or []}
    return Repository(name, info.sha, files, private=bool(info.private))


def create(name: str, *, private: bool) -> Repository:
    """The repository of that name, made where there is none (an existing one keeps who may see it)."""
    with _told(name, doing="write to"):
        HfApi().create_repo(name, private=private, exist_ok=True)
    return repository(name)


def commit(
    to: Repository, folder: Path, *, files: list[str], stale: list[str], message: str, tag: str | None = None
) -> str:
    """Puts `files` of `folder` into the repository and takes the `stale` ones out, in one commit; its hash.

    Where someone else has committed since `to` was read nothing is changed: raises BusyError.
    """
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in files]
    removals = [CommitOperationDelete(path_in_repo=name) for name in stale]
    with _told(to.name, doing="write to"), warnings.catch_warnings():
        # the vocabulary and the like belong to the model
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        warnings.filterwarnings("ignore", message="Use 'content=", category=DeprecationWarning)  # within the client
        made = HfApi().create_commit(
            to.name, [*operations, *removals], commit_message=message, parent_commit=to.revision
        )
        if tag is not None:
            HfApi().create_tag(to.name, tag=tag, revision=made.oid)
    return made.oid


def download(name: str, file: str, *, revision: str, into: Path) -> Path:
    """Writes one file of a repository into the folder `into`; its path there."""
    with _told(name, doing="read", revision=revision):
        return Path(hf_hub_download(name, file, revision=revision, local_dir=into))


def owned(owner: str) -> list[Found]:
    """The repositories of an owner that peterrec has published, the newest first."""
    with _told(owner, doing="read"):
        models = list(HfApi().list_models(author=owner, filter="peterrec", full=True))
    found = []
    for model in models:
        kinds = [tag.removeprefix("peterrec-") for tag in model.tags or [] if tag.startswith("peterrec-")]
        changed = "" if model.last_modified is None else model.last_modified.isoformat(sep=" ", timespec="seconds")
        found.append(Found(model.id, kinds[0] if kinds else "?", changed, bool(model.private)))
    return sorted(found, key=lambda one: one.changed, reverse=True)


@contextmanager
def _told(name: str, *, doing: str, revision: str | None = None) -> Iterator[None]:
    """What the client raises, as errors that say what to do."""
    place = f"{name}{'' if revision is None else f'@{revision}'} on {hub_constants.ENDPOINT}"
    try:
        yield
    except RevisionNotFoundError:
        raise SettingsError(f"{name} on {hub_constants.ENDPOINT} has no revision {revision!r}.") from None
    except GatedRepoError:
        raise SettingsError(f"{place} is gated: ask for access on its page. {_LOGIN} {doing} it.") from None
    except RepositoryNotFoundError:
        raise SettingsError(
            f"{place} is not there, or you may not see it. Check the name. {_LOGIN} {doing} it. If you mean a folder, "
            f"there is none of that name; write ./{name} for one."
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise ResourceError(
            f"{place} cannot be reached, and it is not among what was fetched before. Check the network (and that "
            "HF_HUB_OFFLINE is not set), or fetch it on a machine that has one and copy the folder."
        ) from None
    except RemoteEntryNotFoundError as problem:
        raise RefusedError(f"{place} lacks a file that its manifest names ({problem}); publish it again.") from None
    except HFValidationError as problem:
        raise SettingsError(f"{name}: no name of a repository ({problem}).") from None
    except HfHubHTTPError as problem:
        raise _of_status(problem, place=place, doing=doing) from None
    except RuntimeError as problem:  # an upload in a thread of the client's
        if isinstance(problem.__cause__, HfHubHTTPError):
            raise _of_status(problem.__cause__, place=place, doing=doing) from None
        if isinstance(problem.__cause__, (_NO_CONNECTION, ConnectionError, TimeoutError)):
            raise ResourceError(f"{place} was lost during the upload; nothing was published. Run again.") from None
        raise
    except (_NO_CONNECTION, ConnectionError, TimeoutError) as problem:
        raise ResourceError(
            f"{place} cannot be reached ({type(problem).__name__}). Check the network and run again."
        ) from None


def _of_status(problem: HfHubHTTPError, *, place: str, doing: str) -> SettingsError | BusyError | ResourceError:
    status = None if problem.response is None else problem.response.status_code
    said = (getattr(problem, "server_message", None) or "").strip()
    told = f": {said}" if said else ""
    if status in (401, 403):
        return SettingsError(f"{place} refuses to let you {doing} it (HTTP {status}{told}). {_LOGIN} {doing} it.")
    if status in (409, 412):
        return BusyError(
            f"{place} was changed by someone else in the meantime (HTTP {status}{told}); nothing was published."
        )
    if status == 429:
        return ResourceError(f"{place} asks to wait (HTTP 429{told}); nothing was changed. Run again later.")
    if status is not None and status >= 500:
        return ResourceError(f"{place} fails (HTTP {status}{told}); nothing was changed. Run again later.")
    return SettingsError(f"{place} does not take the request (HTTP {status}{told}).")
