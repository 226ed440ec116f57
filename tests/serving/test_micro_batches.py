"""The queue: what is answered together, what is turned away, how it ends."""

import threading
import time

import pytest

from peterrec.serving.limits import Limits
from peterrec.serving.micro_batches import MicroBatches, QueueFullError, StoppedError
from peterrec.serving.server import Ran


class Job:
    wants = ()

    def __init__(self, name, rows=1):
        self.name, self.rows = name, rows


class Runner:
    """Answers with names, in batches that it notes, once it is let go."""

    def __init__(self, *, held=False):
        self.batches, self.go, self.busy = [], threading.Event(), threading.Event()
        if not held:
            self.go.set()

    def __call__(self, jobs):
        self.busy.set()
        assert self.go.wait(20)
        self.batches.append([job.name for job in jobs])
        if any(job.name == "bad" for job in jobs):
            raise ValueError("bad")
        return Ran([f"answer {job.name}" for job in jobs], 1, len(jobs))


@pytest.fixture
def made():
    found = []

    def make(run, **limits):
        found.append(MicroBatches(run, limits=Limits(**limits)))
        return found[-1]

    yield make
    for one in found:
        assert one.stop(timeout=20)


def test_what_waits_is_answered_together(made):
    run = Runner(held=True)
    batches = made(run, wait_ms=0, queued=10, batch_rows=4)
    first = batches.submit(Job("first"))
    assert run.busy.wait(20)  # the first one is under way by itself
    others = [batches.submit(Job(name, rows)) for name, rows in (("a", 1), ("b", 3), ("c", 9), ("d", 1))]
    assert len(batches) == 4
    run.go.set()
    assert [one.result(20) for one in (first, *others)] == [f"answer {name}" for name in ("first", "a", "b", "c", "d")]
    assert run.batches == [["first"], ["a", "b"], ["c"], ["d"]], "no one joins a batch that is full"


def test_a_batch_waits_for_others(made):
    run = Runner()
    batches = made(run, wait_ms=1000, batch_rows=2)
    first = batches.submit(Job("a"))
    time.sleep(0.05)
    second = batches.submit(Job("b"))
    assert (first.result(20), second.result(20)) == ("answer a", "answer b")
    assert run.batches == [["a", "b"]]


def test_more_than_may_wait_are_turned_away(made):
    run = Runner(held=True)
    batches = made(run, wait_ms=0, queued=2)
    batches.submit(Job("under way"))
    assert run.busy.wait(20)
    kept = [batches.submit(Job("a")), batches.submit(Job("b"))]
    with pytest.raises(QueueFullError):
        batches.submit(Job("c"))
    run.go.set()
    assert [one.result(20) for one in kept] == ["answer a", "answer b"]
    assert batches.submit(Job("d")).result(20) == "answer d"


def test_one_that_fails_spoils_no_other(made):
    run = Runner(held=True)
    batches = made(run, wait_ms=0)
    batches.submit(Job("first"))
    assert run.busy.wait(20)
    good, bad, other = (batches.submit(Job(name)) for name in ("good", "bad", "other"))
    run.go.set()
    assert (good.result(20), other.result(20)) == ("answer good", "answer other")
    with pytest.raises(ValueError, match="bad"):
        bad.result(20)
    assert batches.submit(Job("later")).result(20) == "answer later"


def test_what_is_given_up_is_not_computed(made):
    run = Runner(held=True)
    batches = made(run, wait_ms=0)
    batches.submit(Job("first"))
    assert run.busy.wait(20)
    given_up, kept = batches.submit(Job("given up")), batches.submit(Job("kept"))
    assert given_up.cancel()
    run.go.set()
    assert kept.result(20) == "answer kept"
    assert run.batches == [["first"], ["kept"]]


def test_stopping_answers_what_waits_and_takes_no_more():
    run = Runner(held=True)
    batches = MicroBatches(run, limits=Limits(wait_ms=0))
    waiting = [batches.submit(Job(name)) for name in "abc"]
    assert not batches.stop(timeout=0.01)
    with pytest.raises(StoppedError):
        batches.submit(Job("d"))
    run.go.set()
    assert batches.stop(timeout=20)
    assert not batches.alive
    assert [one.result(0) for one in waiting] == ["answer a", "answer b", "answer c"]
