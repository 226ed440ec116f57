"""What a search for the learning rate came to."""

from dataclasses import dataclass
from typing import Any, Generic

from peterrec.evaluation.trial import ResultT


@dataclass(frozen=True)
class Searched(Generic[ResultT]):
    """A contestant at its chosen rate for every seed, and each rate that was tried on the first one.

    `tried` has {learning_rate, validation, best_epoch}, and `diverged` where the training did not hold.
    """

    fitted: dict[int, ResultT]
    learning_rate: float
    tried: list[dict[str, Any]]
    seconds: float | None  # of all trainings of the search that held; None without one

    def facts(self) -> dict[str, Any]:
        """What its row of results says of it."""
        return {"learning_rate": self.learning_rate, "search": self.tried, "search_seconds": self.seconds}
