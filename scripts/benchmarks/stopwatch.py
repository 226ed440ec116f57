"""Times of calls that take turns in one process, so that whatever else the machine does hits all alike."""

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from benchmarks.conditions import Conditions

Name = TypeVar("Name", bound=Hashable)
MOST = 200  # rounds; more tell nothing new


@dataclass
class Timing:
    """Seconds of each repetition."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """Longest less shortest, as a share of the median: the noise."""
        return (max(self.seconds) - self.least) / self.median

    def figures(self) -> dict[str, float | int]:
        """What a row of a table says about it."""
        return {
            "ms": 1e3 * self.median,
            "ms_min": 1e3 * self.least,
            "spread": self.spread,
            "n": len(self.seconds),
        }


def seconds_of(call: Callable[[], object], conditions: Conditions) -> float:
    """Seconds of one call, to its end on the device."""
    clock = time.perf_counter if conditions.clock == "wall" else time.process_time
    conditions.wait()
    began = clock()
    call()
    conditions.wait()
    return clock() - began


def take_turns(calls: Mapping[Name, Callable[[], object]], conditions: Conditions) -> dict[Name, Timing]:
    """Each call once to warm up, then rounds until the budget is spent; in each, every call twice, the second timed.

    A step of training follows one of its own kind, not one of a rival that has filled the caches and the allocator.
    """
    for call in calls.values():
        call()
    conditions.wait()
    found = {name: Timing() for name in calls}
    gc.collect()
    began = time.perf_counter()
    rounds = 0
    while rounds < conditions.least or (rounds < MOST and time.perf_counter() - began < conditions.budget):
        for name, call in calls.items():
            call()
            found[name].seconds.append(seconds_of(call, conditions))
        rounds += 1
    return found
