import sys

import numpy as np
import pytest
import torch

from peterrec.training import memory
from peterrec.training.memory import PeakMemory

MEGABYTE = 2**20
CPU = torch.device("cpu")


@pytest.fixture
def linux():
    if PeakMemory().read(CPU) is None:
        pytest.skip("this system does not tell the peak of a process")


@pytest.mark.usefixtures("linux")
def test_a_peak_that_is_over_counts_and_one_before_the_watch_does_not():
    before = np.ones(200 * MEGABYTE, dtype=np.uint8)
    del before
    watch = PeakMemory()
    start = watch.read(CPU)
    assert start is not None
    during = np.ones(100 * MEGABYTE, dtype=np.uint8)
    del during
    peak = watch.read(CPU)
    assert peak is not None
    assert 95 * MEGABYTE < peak - start < 130 * MEGABYTE


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells it")
def test_linux_tells_it():
    peak = PeakMemory().read(CPU)
    if not memory._CLEAR.exists():
        pytest.skip("this kernel has no /proc/self/clear_refs")
    assert peak is not None
    assert 20 * MEGABYTE < peak < 2**40


def test_nothing_is_claimed_where_the_peak_cannot_be_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR", tmp_path)  # a folder: writing fails
    assert PeakMemory().read(CPU) is None
    monkeypatch.setattr(memory, "_CLEAR", tmp_path / "accepted")  # written, but nothing comes of it
    status = tmp_path / "status"
    status.write_text("VmHWM:\t  500000 kB\nVmRSS:\t  100000 kB\n")
    monkeypatch.setattr(memory, "_STATUS", status)
    assert PeakMemory().read(CPU) is None
    status.write_text("VmHWM:\t  100000 kB\nVmRSS:\t  100000 kB\n")
    assert PeakMemory().read(CPU) == 100_000 * 1024
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "absent")
    assert PeakMemory().read(CPU) is None


def test_a_device_that_tells_nothing_has_no_figure():
    assert PeakMemory().read(torch.device("mps")) is None
