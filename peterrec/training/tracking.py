"""A tracker of metrics, tables and artifacts that can neither stop nor slow a run: wandb, or none."""

import json
import math
import os
import queue
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal, Self

from peterrec.atomic import atomic_file
from peterrec.errors import PeterrecError

Mode = Literal["off", "offline", "online"]
Scalar = float | int | str | bool | None

QUEUED = 1000  # records that may wait for a slow tracker; later ones are dropped and counted
_PROCESS = Path(__file__).with_name("wandb_process.py")
_RUN_ID = re.compile(r"^[a-z0-9]{4,64}$")


class Tracker:
    """The tracker that is off: everything it is told is forgotten. As a context, it finishes at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def run_id(self) -> str | None:
        """The id under which the run is tracked; the same after a resume."""
        return None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Numbers of one step of the run; steps never fall."""

    def table(self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]) -> None:
        """A table, such as the comparison of adapters."""

    def artifact(self, name: str, *, type: str, files: Sequence[Path], uses: Sequence[str] = ()) -> None:
        """Files under a name; `uses` names the artifacts they were made from (encoder, then adapter)."""

    def finish(self, timeout: float = 10.0) -> None:
        """Hand over what is waiting, for at most `timeout` seconds."""


class Prefixed(Tracker):
    """Logs to another tracker under a prefix and behind the steps logged so far: several trainings in one run."""

    def __init__(self, tracker: Tracker, *, prefix: str, after: int) -> None:
        self._tracker = tracker
        self._prefix = prefix
        self._after = after
        self.last = after

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Numbers of one step of this training."""
        self.last = self._after + step
        self._tracker.log({f"{self._prefix}/{name}": value for name, value in metrics.items()}, step=self.last)


def open_tracker(
    mode: Mode,
    *,
    project: str,
    name: str,
    config: Mapping[str, Any],
    folder: Path | None,
    run_id: str | None = None,
    notify: Callable[[str], None] | None = None,
) -> Tracker:
    """A tracker whose files go to `<folder>/wandb`; `offline` needs no network (`wandb sync` sends it later).

    The run's id is `run_id`, or else the one that an earlier process noted in the folder, or a new one. What
    goes wrong is told to `notify` (or on standard error) when the tracker finishes, and never raised.
    """
    if mode == "off":
        return Tracker()
    assert folder is not None, "a tracker that is on needs a folder"
    tell = notify or (lambda text: print(text, file=sys.stderr))
    try:
        noted = _noted_run_id(folder / "wandb" / "run-id", run_id)
        begin = {"project": project, "name": name, "config": config, "folder": str(folder.resolve())}
        return WandbTracker({**begin, "run_id": noted, "mode": mode}, folder=folder, notify=tell)
    except (OSError, ValueError, TypeError, PeterrecError) as problem:
        tell(f"wandb: not tracking ({problem}).")
        return Tracker()


class WandbTracker(Tracker):
    """Hands records through a bounded queue and a side thread to a process that talks to wandb."""

    def __init__(self, begin: Mapping[str, Any], *, folder: Path, notify: Callable[[str], None]) -> None:
        self._run_id: str = begin["run_id"]
        self._notify = notify
        self._log_path = folder / "wandb" / "peterrec.log"
        self._lines: queue.Queue[str | None] = queue.Queue(QUEUED)
        self._dropped = 0
        self._finished = False
        first = _line(begin)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                # -P: the script's folder must not shadow anybody's `settings` or `progress`
                [sys.executable, "-P", str(_PROCESS)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the training's affair
            )
        assert self._process.stdin is not None
        self._put(first)
        # a daemon: if the pipe is stuck when the program ends, nobody waits for it
        self._thread = threading.Thread(target=self._send, args=(self._process.stdin,), daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        return self._run_id

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._put({"kind": "metrics", "metrics": finite, "step": step})

    def table(self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]) -> None:
        listed = [list(row) for row in rows]
        self._put({"kind": "table", "name": name, "columns": list(columns), "rows": listed})

    def artifact(self, name: str, *, type: str, files: Sequence[Path], uses: Sequence[str] = ()) -> None:
        paths = [str(Path(file).resolve()) for file in files]
        self._put({"kind": "artifact", "name": name, "type": type, "files": paths, "uses": list(uses)})

    def finish(self, timeout: float = 10.0) -> None:
        if self._finished:
            return
        self._finished = True
        deadline = time.monotonic() + timeout
        with suppress(queue.Full):
            self._lines.put(None, timeout=timeout)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._kill()
            self._notify(
                f"wandb: not done within {timeout:g} s and stopped; what it has is in "
                f"{self._log_path.parent} (`wandb sync` sends it)."
            )
            return
        if code or self._dropped:
            lost = f"{self._dropped} records dropped; " if self._dropped else ""
            self._notify(f"wandb: {lost}some records are missing; see {self._log_path}.")

    def _put(self, record: Mapping[str, Any] | str) -> None:
        try:
            self._lines.put_nowait(record if isinstance(record, str) else _line(record))
        except (queue.Full, TypeError, ValueError):
            self._dropped += 1

    def _send(self, pipe: IO[bytes]) -> None:
        """The side thread: it alone may wait for the other process."""
        # a process that died has broken the pipe: its exit code will be told at the end
        with suppress(OSError), pipe:
            while (line := self._lines.get()) is not None:
                pipe.write(line.encode())
                pipe.flush()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session: wandb's helpers go too
        self._process.wait()
        self._thread.join(1.0)  # the broken pipe sets it free


def _noted_run_id(note: Path, run_id: str | None) -> str:
    if run_id is None and note.exists() and _RUN_ID.match(known := note.read_text(encoding="utf-8").strip()):
        return known
    chosen = run_id or secrets.token_hex(5)
    with atomic_file(note) as temporary:
        temporary.write_text(chosen + "\n", encoding="utf-8")
    return chosen


def _line(record: Mapping[str, Any]) -> str:
    """JSON, in which numbers that are not finite are missing."""
    return json.dumps(_plain(record), allow_nan=False, default=str) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
