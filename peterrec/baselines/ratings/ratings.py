"""Ratings that users gave to items, as arrays, and what each model of them can do."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ratings:
    """N rows: `users` and `items` (N,), numbered from 0 below `num_users` and `num_items`, and `values` (N,).

    `weights` (N,), if given, are what rows count for; a model takes them with a mean of 1. `implicit`, users and items
    (M,) each, are events beyond the ratings: what a user is known to have chosen, without a value.

    Raises DataError where there is no row, or one has no number, no weight above 0, or a user or item out of range.
    """

    users: Ints
    items: Ints
    values: Floats
    num_users: int
    num_items: int
    weights: Floats | None = None
    implicit: tuple[Ints, Ints] | None = None

    def __post_init__(self) -> None:
        if not len(self.values):
            raise DataError("There are no ratings to learn from: prepare more rows, or a larger training share.")
        if len(broken := np.flatnonzero(~np.isfinite(self.values))):
            raise DataError(f"Rating {broken[0]} is {self.values[broken[0]]}, no finite number: leave such rows out.")
        pairs = [("", self.users, self.items)]
        if self.implicit is not None:
            pairs.append(("implicit ", *self.implicit))
        for told, users, items in pairs:
            for name, ids, number in (("user", users, self.num_users), ("item", items, self.num_items)):
                if len(odd := np.flatnonzero((ids < 0) | (ids >= number))):
                    raise DataError(
                        f"The {name} of {told}row {odd[0]} is {ids[odd[0]]}; {name}s are numbered from 0 to "
                        f"{number - 1}."
                    )
        if self.weights is not None and len(odd := np.flatnonzero(~(self.weights > 0))):
            raise DataError(
                f"The weight of rating {odd[0]} is {self.weights[odd[0]]}: leave out what has none above 0."
            )

    def __len__(self) -> int:
        """The number of rows N."""
        return len(self.values)

    @cached_property
    def shares(self) -> Floats:
        """What each row counts for (N,), 1 on average."""
        return np.ones(len(self)) if self.weights is None else self.weights / self.weights.mean()

    @cached_property
    def mean(self) -> float:
        """The mean rating μ."""
        return float(np.average(self.values, weights=self.shares))

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest rating."""
        return float(self.values.min()), float(self.values.max())

    @cached_property
    def rated(self) -> "tuple[NDArray[np.bool_], NDArray[np.bool_]]":
        """Which users (U + 1,) and items (I + 1,) have a rating; the last place is that of everybody unknown."""
        users, items = np.zeros(self.num_users + 1, dtype=bool), np.zeros(self.num_items + 1, dtype=bool)
        users[self.users], items[self.items] = True, True
        return users, items

    def clipped(self, values: Floats) -> Floats:
        """Predictions within the range of the ratings."""
        return np.clip(values, *self.range)

    def places(self, users: Ints, items: Ints) -> tuple[Ints, Ints]:
        """Users and items (B,) in tables with one more row for those that are unknown: −1, or beyond what there is."""
        found = []
        for ids, number in ((users, self.num_users), (items, self.num_items)):
            ids = np.asarray(ids, dtype=np.int64)
            found.append(np.where((ids < 0) | (ids >= number), number, ids))
        return found[0], found[1]

    def by_user(self, values: Floats) -> "csr_array":
        """Something a row (N,) as a matrix (U, I), rows in order of items; several of one pair are averaged.

        A stored 0 is a value, not a gap.
        """
        from scipy.sparse import csr_array

        pair = self.users * self.num_items + self.items
        there, own = np.unique(pair, return_inverse=True)
        means = np.bincount(own, values) / np.bincount(own)
        ends = np.searchsorted(there, np.arange(self.num_users + 1) * self.num_items)
        return csr_array((means, there % self.num_items, ends), shape=(self.num_users, self.num_items))

    @cached_property
    def feedback(self) -> tuple[Ints, Ints]:
        """N(u): each user's items, rated or implicit, once each and in order, and where a user's begin (U + 1,)."""
        users, items = (self.users, self.items)
        if self.implicit is not None:
            users, items = np.append(users, self.implicit[0]), np.append(items, self.implicit[1])
        there = np.unique(users * self.num_items + items)
        return there % self.num_items, np.searchsorted(there, np.arange(self.num_users + 1) * self.num_items)

    def transposed(self) -> "Ratings":
        """Items as users and users as items."""
        implicit = None if self.implicit is None else (self.implicit[1], self.implicit[0])
        return Ratings(
            self.items, self.users, self.values, self.num_items, self.num_users, weights=self.weights, implicit=implicit
        )

    def part(self, rows: Ints) -> "Ratings":
        """Some of the rows, with all implicit events."""
        weights = None if self.weights is None else self.weights[rows]
        return Ratings(
            self.users[rows],
            self.items[rows],
            self.values[rows],
            self.num_users,
            self.num_items,
            weights=weights,
            implicit=self.implicit,
        )


class RatingModel(Protocol):
    """A model of ratings. Users and items without a training row fall back on what is known of the rest."""

    @classmethod
    def fit(cls, ratings: Ratings, *, validation: Ratings | None = None, seed: int = 0) -> Self:
        """Learn from `ratings`. What is trained by gradient stops by `validation`, or by rows that it sets aside."""
        ...

    def predict(self, users: Ints, items: Ints) -> Floats:
        """The ratings (B,) of items (B,) by users (B,), within the range of the training ratings; −1 is unknown."""
        ...
