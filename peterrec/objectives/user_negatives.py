"""Negatives of single examples: items that the example's user has never taken."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.vocabulary import FIRST_ITEM

Ints = NDArray[np.int64]


class UserNegatives:
    """Draws items uniformly from those that a user does not have, of `rows` − 3 items in the rows from 3 on.

    `owner` and `item` `(E,)` are what U users have, in any order, perhaps repeatedly. Nothing is drawn twice over in
    hope: the r-th item that a user does not have is found by counting those that they have before it, at
    O(log E) a draw, however few are left.
    """

    def __init__(self, owner: NDArray[np.integer], item: NDArray[np.integer], *, users: int, rows: int) -> None:
        self._items = rows - FIRST_ITEM
        self._span = self._items + 1
        pairs = np.unique(owner.astype(np.int64) * self._items + (item.astype(np.int64) - FIRST_ITEM))
        owners, items = pairs // self._items, pairs % self._items
        self._first = np.searchsorted(owners, np.arange(users + 1))
        # of each item that a user has: how many before it they do not have
        self._missing = owners * self._span + items - (np.arange(len(pairs)) - self._first[owners])

    def free(self, users: NDArray[np.integer]) -> Ints:
        """How many items each of `users` `(n,)` does not have."""
        return self._items - (self._first[users + 1] - self._first[users])

    def draw(
        self, rng: np.random.Generator, users: NDArray[np.integer], *, number: int
    ) -> tuple[Ints, NDArray[np.bool_]]:
        """Rows `(n, number)` of items for `users` `(n,)`, drawn with replacement, and who has any left `(n,)`.

        For the others the rows are items that mean nothing.
        """
        free = self.free(users)
        drawn = (rng.random((len(users), number)) * np.maximum(free, 1)[:, None]).astype(np.int64)
        keys = users[:, None] * self._span + drawn
        had = np.searchsorted(self._missing, keys, side="right") - self._first[users][:, None]
        found = np.minimum(drawn + had, self._items - 1)  # the bound is for those who have everything
        return found + FIRST_ITEM, free > 0
