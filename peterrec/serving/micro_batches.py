"""The queue before a server: requests that come within a few milliseconds are answered together."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from peterrec.errors import PeterrecError
from peterrec.serving.jobs import Job
from peterrec.serving.limits import Limits
from peterrec.serving.requests import Answer
from peterrec.serving.server import Ran


class QueueFullError(PeterrecError):
    """More requests wait than may."""


class StoppedError(PeterrecError):
    """The queue takes no more requests."""


class _Waiting(NamedTuple):
    job: Job
    answer: "Future[Answer]"


class MicroBatches:
    """A thread that takes jobs from a bounded queue and has `run` answer them together.

    A batch waits `wait_ms` for others to join it, unless it holds `batch_rows` rows already. Of a batch that fails
    each job is tried by itself, so that nobody's request can spoil another's. `told` hears of each batch: its jobs,
    and what they took.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Job]], Ran],
        *,
        limits: Limits,
        told: Callable[[Sequence[Job], Ran, float], object] = lambda jobs, ran, seconds: None,
    ) -> None:
        self._run, self._told = run, told
        self._rows, self._wait = limits.batch_rows, limits.wait_ms / 1000
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(limits.queued + 1)  # one place for the end
        self._places = threading.BoundedSemaphore(limits.queued)
        self._changing = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="peterrec-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many requests wait."""
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and answered."""
        return self._thread.is_alive() and not self._stopped

    def submit(self, job: Job) -> "Future[Answer]":
        """The answer to come; cancelled in time, it is never computed. Raises QueueFullError, StoppedError."""
        with self._changing:
            if self._stopped:
                raise StoppedError("The server is stopping.")
            if not self._places.acquire(blocking=False):
                raise QueueFullError("Too many requests are waiting; try again in a moment.")
            waiting = _Waiting(job, Future())
            self._queue.put_nowait(waiting)
        return waiting.answer

    def stop(self, *, timeout: float | None = None) -> bool:
        """Takes no more requests, answers those that wait, and ends; whether all of that came about in time."""
        with self._changing:
            if not self._stopped:
                self._stopped = True
                self._queue.put_nowait(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        going = True
        while going:
            first = self._queue.get()
            if first is None:
                return
            batch, rows = [first], first.job.rows
            self._places.release()
            until = time.monotonic() + self._wait
            while rows < self._rows:
                try:
                    left = until - time.monotonic()
                    more = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    going = False
                    break
                self._places.release()
                batch.append(more)
                rows += more.job.rows
            self._answer([one for one in batch if one.answer.set_running_or_notify_cancel()])

    def _answer(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        began = time.perf_counter()
        jobs = [one.job for one in batch]
        try:
            ran = self._run(jobs)
        except Exception as problem:  # noqa: BLE001 - whatever it is belongs to whoever asked
            if len(batch) == 1:
                batch[0].answer.set_exception(problem)
                return
            for one in batch:
                self._answer([one])
            return
        self._told(jobs, ran, time.perf_counter() - began)
        for one, answer in zip(batch, ran.answers, strict=True):
            one.answer.set_result(answer)
