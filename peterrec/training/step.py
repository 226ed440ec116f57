"""One step of a pretraining: windows of histories, groups of users, or both."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from peterrec.data.shapes import Shape


@dataclass(frozen=True)
class Group:
    """Users whose views compete with each other, as rows of the training part `(U,)`; its number in the epoch."""

    epoch: int
    number: int
    users: NDArray[np.integer]


@dataclass(frozen=True)
class Step:
    """One batch: windows `[start, stop)` of the histories `row`, longest first, and its number within the epoch.

    With a `shape` the windows are padded to so many users and targets a user. Beside them stand `groups` of users,
    where an objective compares users.
    """

    epoch: int
    number: int
    row: NDArray[np.integer]
    start: NDArray[np.integer]
    stop: NDArray[np.integer]
    shape: Shape | None = None
    groups: tuple[Group, ...] = ()
