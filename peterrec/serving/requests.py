"""What may be asked of a server, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ids = Sequence[str]
Value = str | float | int | bool | None | Sequence[str | float | int | bool]


@dataclass(frozen=True)
class Predict:
    """The classes of N users by their `histories`, lists of item ids, oldest first, by each of the `tasks`."""

    histories: Sequence[Ids]
    tasks: Sequence[str]


@dataclass(frozen=True)
class Recommend:
    """The best `k` items for each history, by a `task` that ranks items, or by the encoder itself: what comes next.

    What a user has had is no candidate, as far as the history tells it; `seen` are more such items, a list a history.
    With `remove_seen` False all items are candidates. `allow`: nothing but these items; `block`: none of those.
    """

    histories: Sequence[Ids]
    task: str | None = None
    k: int = 10
    seen: Sequence[Ids] | None = None
    remove_seen: bool | None = None
    allow: Ids | None = None
    block: Ids | None = None


@dataclass(frozen=True)
class Encode:
    """The encoder's own user vector of each history."""

    histories: Sequence[Ids]


@dataclass(frozen=True)
class Impression:
    """Something that may be shown to a user: the `item`, in a `domain`, with the other `fields` that the model reads.

    `history` is the place of what its user did before in the request's histories; None: nothing is known of it.
    """

    fields: Mapping[str, Value] = field(default_factory=dict)
    item: str | None = None
    domain: str | None = None
    history: int | None = None


@dataclass(frozen=True)
class PredictImpressions:
    """What will follow each of the `rows`, by a `task` on impressions."""

    task: str
    rows: Sequence[Impression]
    histories: Sequence[Ids] = ()


Request = Predict | Recommend | Encode | PredictImpressions


@dataclass(frozen=True)
class Read:
    """What was read of N histories: `events` that each has, how many of them are `unknown` items, which were left out,
    and how many the answer depends on, `used`; `(N,)` each."""

    events: NDArray[np.int64]
    unknown: NDArray[np.int64]
    used: NDArray[np.int64]


@dataclass(frozen=True)
class Classes:
    """Probabilities `(N, C)` of the `classes`. Who has no known item has the class shares of the training labels."""

    classes: tuple[str, ...]
    probabilities: NDArray[np.float64]
    read: Read

    @property
    def predicted(self) -> list[str]:
        """The most probable class of each user."""
        return [self.classes[number] for number in self.probabilities.argmax(axis=1)]


@dataclass(frozen=True)
class Items:
    """For each user the best items and their scores, best first.

    `by_popularity` `(N,)`: who has no known item gets what occurred most often; scores are then the counts.
    """

    items: list[list[str]]
    scores: list[list[float]]
    by_popularity: NDArray[np.bool_]
    read: Read


@dataclass(frozen=True)
class Vectors:
    """User vectors `(N, D)`, float32."""

    vectors: NDArray[np.float32]
    read: Read


@dataclass(frozen=True)
class Outcomes:
    """A probability, or a value, of each output of a model of impressions, `(N,)` each; `read` is of the histories."""

    outputs: dict[str, NDArray[np.float64]]
    read: Read


Answer = dict[str, Classes] | Items | Vectors | Outcomes
