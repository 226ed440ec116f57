"""Files and folders that are whole or absent: temporary name, flush, rename; full disks are told plainly."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peterrec.errors import PeterrecError, ResourceError

_PREFIX = ".partial-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends well it is flushed to disk and renamed to `path`.

    The temporary name keeps the suffix. Raises `ResourceError` if the disk is full or may not be written.
    """
    path = Path(path)
    with disk_errors(path), temporary_path(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`; when the block ends well it is flushed and takes the place of `path`.

    Raises `ResourceError` if the disk is full or may not be written.
    """
    path = Path(path)
    with disk_errors(path), temporary_path(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        put_folder(temporary, path)


def put_folder(temporary: Path, path: Path) -> None:
    """Flush the folder `temporary` and rename it to `path`, in place of what stands there."""
    sync_tree(temporary)
    with temporary_path(path) as replaced:  # a folder cannot be renamed onto a full one
        if path.exists():
            path.replace(replaced)
        temporary.replace(path)
        sync(path.parent)


@contextmanager
def temporary_path(path: Path) -> Iterator[Path]:
    """A free name beside `path`; what stands there at the end is removed."""
    temporary = path.with_name(f"{_PREFIX}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
    finally:
        remove(temporary)


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_path`."""
    return path.name.startswith(_PREFIX)


def remove_temporaries(folder: Path) -> None:
    """Remove what killed writers left at any depth of `folder`; only under its lock."""
    for leftover in [p for p in folder.rglob(f"{_PREFIX}*") if not any(map(is_temporary, p.parents))]:
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Flush a folder with everything in it to the disk."""
    for entry in folder.rglob("*"):
        sync(entry)
    sync(folder)


def sync(path: Path) -> None:
    """Flush a file or a folder's entries to the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder's entries
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or forbidden disk into a `ResourceError` naming the file (or else `path`).

    Native writers (safetensors, Arrow, DuckDB) tell the system's error in the text only; that counts too.
    """
    try:
        yield
    except PeterrecError:
        raise
    except Exception as problem:
        code = _system_error(problem)
        named = problem.filename if isinstance(problem, OSError) else None
        where = Path(os.fsdecode(named)) if isinstance(named, str | bytes | os.PathLike) else path
        if is_temporary(where):
            where = path
        if code in _FULL:
            raise ResourceError(
                f"{where}: {os.strerror(code)}. Free space (or raise the quota), then run the same command "
                "again; what was finished before is intact."
            ) from problem
        if code in _DENIED:
            raise ResourceError(
                f"{where}: {os.strerror(code)}. Change its permissions or choose another folder."
            ) from problem
        raise


def _system_error(problem: Exception) -> int | None:
    if isinstance(problem, OSError) and problem.errno is not None:
        return problem.errno
    if told := re.search(r"\(os error (\d+)\)", str(problem)):
        return int(told[1])
    return next((c for c in (errno.ENOSPC, errno.EDQUOT) if os.strerror(c) in str(problem)), None)


def readable(path: Path) -> None:
    """Give a file the permissions of any new file; some writers (safetensors) keep theirs to their owner."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
