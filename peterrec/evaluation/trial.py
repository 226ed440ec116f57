"""One training of a comparison, and what comes of it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from peterrec.transfer import Contestant, Tested

ContestantT = TypeVar("ContestantT", bound=Contestant)
ResultT = TypeVar("ResultT", bound=Tested)


@dataclass(frozen=True)
class Trial(Generic[ContestantT]):
    """One training: a contestant on the split of a seed, at a learning rate (None: that of its recipe)."""

    contestant: ContestantT
    seed: int
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """What its folder is called."""
        rate = "" if self.learning_rate is None else f"-rate-{self.learning_rate!r}"
        return f"{self.contestant.name}-seed-{self.seed}{rate}"
