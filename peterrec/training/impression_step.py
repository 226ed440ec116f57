"""What a step of a training on impressions is: its settings, one batch, and the pieces of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from peterrec.training.settings import TrainingSettings

Ints = NDArray[np.int64]


class ImpressionSettings(TrainingSettings):
    """Training settings of tasks on impressions."""

    rows: int = Field(2048, ge=1, description="Impressions of a batch.")
    cache_mb: int = Field(
        1024,
        ge=0,
        description="Memory (MiB) for the user vectors of a frozen encoder, computed once; where they take more, "
        "each step computes them again.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Not to be set here: --seeds gives each run its own.")


@dataclass(frozen=True)
class ImpressionStep:
    """One batch: rows `(B,)`; how many of them count for each objective `(T,)`, and what these weigh `(T,)`.

    With a correlation loss also the number of its `pairs`, and the seed by which its negatives are drawn.
    """

    rows: Ints
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    pairs: int = 0
    draw: tuple[int, ...] = ()


@dataclass(frozen=True)
class ImpressionPiece:
    """Some rows `(B,)` of a step."""

    rows: Ints
    step: ImpressionStep
