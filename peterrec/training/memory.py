"""The most memory that a training needed."""

import ctypes
import gc
import re
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK_ONLY = "5"  # Linux, proc(5): forget the highest resident size and nothing else
_SLACK = 2**24  # bytes that may come in between two looks


class PeakMemory:
    """Watches from its making on; one watch at a time, since the peaks belong to the process.

    On a CUDA device the figure is the largest sum of its tensors, elsewhere the largest resident size of the whole
    process, interpreter and mapped data included, which only Linux tells.
    """

    def __init__(self) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        self._told = _forget_peak()

    def read(self, device: torch.device) -> int | None:
        """The peak in bytes until now of a training on `device`; None where the system does not tell it."""
        if device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(device))
        if device.type != "cpu" or not self._told:
            return None
        return _resident("VmHWM")


def _forget_peak() -> bool:
    """Sets the peak to what is resident now; False where the system cannot, so that an older peak would be read."""
    _give_back()
    try:
        _CLEAR.write_text(_PEAK_ONLY, encoding="ascii")
    except OSError:
        return False
    peak, now = _resident("VmHWM"), _resident("VmRSS")
    return peak is not None and now is not None and peak <= now + _SLACK


def _give_back() -> None:
    """Returns freed memory to the system: what an earlier training left would count for the next one."""
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim  # glibc's
    except (AttributeError, OSError, TypeError):
        return
    trim(0)


def _resident(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), flags=re.M)
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024
