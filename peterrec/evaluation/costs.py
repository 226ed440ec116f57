"""What a contestant's trainings cost, as its row of results tells it."""

from collections.abc import Mapping
from typing import Any

from peterrec.transfer import Trained


def costs_of(trained: Mapping[int, Trained]) -> dict[str, Any]:
    """Parameters, seconds a seed, the highest peak of memory and the size of the file, of trainings by seed."""
    one = next(iter(trained.values()))
    peaks = [each.peak_memory_bytes for each in trained.values() if each.peak_memory_bytes is not None]
    sizes = [each.adapter_bytes for each in trained.values() if each.adapter_bytes is not None]
    return {
        "trained_parameters": one.trained_parameters,
        "trained_share": one.trained_parameters / one.parameters,
        "seconds": sum(each.seconds for each in trained.values()) / len(trained),
        "peak_memory_bytes": max(peaks, default=None),
        "adapter_bytes": max(sizes, default=None),
    }
