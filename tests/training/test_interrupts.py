"""Signals: the first one waits for the step, a second one does not, and an echo of the first is no second one."""

import os
import signal

import pytest

from peterrec.training import interrupts
from peterrec.training.interrupts import ECHO, Interrupts


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(interrupts, "time", clock)
    return clock


@pytest.fixture
def launched(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("launched")
def test_what_the_launcher_passes_on_is_no_second_signal(clock):
    told = []
    found = Interrupts(notify=told.append)
    with found.handled():
        send()
        clock.now += ECHO - 0.1
        send(signal.SIGTERM)
        send()
        assert found.pending
        assert len(told) == 1
        clock.now += 0.2
        with pytest.raises(KeyboardInterrupt):
            send()


@pytest.mark.usefixtures("launched")
def test_an_echo_does_not_stop_what_is_done_after_a_validation_was_given_up(clock):
    found = Interrupts(notify=print)
    with found.handled():
        with pytest.raises(KeyboardInterrupt), found.immediate():
            send()
        send()  # while the checkpoint is written
        assert found.pending
        clock.now += ECHO
        with pytest.raises(KeyboardInterrupt):
            send()


def test_alone_a_second_signal_is_one(clock):
    found = Interrupts(notify=print)
    with found.handled():
        send()
        with pytest.raises(KeyboardInterrupt):
            send()
