"""The lock on a folder: one process at a time, and a message that names it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from peterrec.atomic import atomic_file
from peterrec.errors import BusyError

LOCK_FILES = frozenset({".lock", ".lock.holder"})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the operating system's lock on `folder/.lock`; it goes with its process, however that ends.

    Raises `BusyError` naming process and host if another one holds it.
    """
    signature = folder / ".lock.holder"
    try:
        lock = FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout:
        try:
            holder = json.loads(signature.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError):
            who = "another process"  # it has the lock and has not yet signed
        raise BusyError(f"{folder}: {who} is writing there; wait for it or choose another folder.") from None
    with lock:
        with atomic_file(signature) as temporary:
            temporary.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            signature.unlink(missing_ok=True)
