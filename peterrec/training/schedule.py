"""The learning rate of a step, as a pure function of its number, so that a resume needs no state."""

import math
from typing import Literal


def learning_rate_factor(
    step: int, *, total: int, warmup: int, schedule: Literal["constant", "linear", "cosine"]
) -> float:
    """The share in (0, 1] of the highest learning rate that `step` (from 0) of `total` steps uses.

    It grows linearly over `warmup` steps and reaches 1 at the last of them (a warm-up longer than the run
    ends with it), then stays, or falls to near 0 on a line or half a cosine wave. Steps after `total`, where
    epochs vary in length, use the rate of the last one.
    """
    assert step >= 0
    assert total >= 1
    warmup = min(warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    # step `warmup` has 1 and step `total` would have 0
    progress = (min(step, total - 1) - warmup) / (total - warmup) if total > warmup else 0.0
    return 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
