"""SIGINT and SIGTERM during training: asked to stop, it stops where nothing is lost."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from peterrec.errors import PeterrecError
from peterrec.training.launcher import launched

ECHO = 2.0  # seconds


class InterruptedRun(PeterrecError):
    """A signal stopped the training after a whole step; if there is a folder, its checkpoint is in it."""

    exit_code = 130


class Interrupts:
    """Notes a signal instead of dying from it.

    The second one, or one within `immediate`, is a KeyboardInterrupt. Under a launcher, what follows the first one
    within `ECHO` is the same one again: a signal to the whole group reaches each process, and launchers pass it on.
    """

    def __init__(self, *, notify: Callable[[str], None]) -> None:
        self.pending = False
        self._immediate = False
        self._echoes = launched()
        self._first = -ECHO
        self._notify = notify

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Own both signals for the block; in any thread but the main one signals never arrive."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """A block, such as a validation, that can be given up at any point: a signal raises at once."""
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.pending and self._echoes and now < self._first + ECHO:
            return
        if not self.pending:
            self._first = now
        if self.pending or self._immediate:
            self.pending = True
            raise KeyboardInterrupt
        self.pending = True
        self._notify("Stopping after this step; once more stops at once.")
