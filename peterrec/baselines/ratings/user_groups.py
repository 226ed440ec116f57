"""Rows by user, with what a user rated laid out over all items: so that neighbours are looked up, not searched for."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.ratings.ratings import Floats, Ints, Ratings

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def user_groups(
    users: Ints, left: "csr_array", ratings: Ratings
) -> "Iterator[tuple[Ints, Floats, NDArray[np.bool_], NDArray[np.bool_]]]":
    """For each of the `users` (B,): the numbers of its rows, `left` (U, I) of it over all items (I + 1,), which of them
    it rated, and which stand in N(u).

    The arrays over items are one and the same for all users: they hold until the next one.
    """
    value = np.zeros(ratings.num_items + 1)
    rated, chosen = np.zeros(ratings.num_items + 1, dtype=bool), np.zeros(ratings.num_items + 1, dtype=bool)
    feedback, begins = ratings.feedback
    order = np.argsort(users, kind="stable")
    who, first = np.unique(users[order], return_index=True)
    for user, rows in zip(who.tolist(), np.split(order, first[1:]), strict=True):
        if user >= ratings.num_users:  # everybody unknown
            yield rows, value, rated, chosen
            continue
        own = slice(left.indptr[user], left.indptr[user + 1])
        items, all_items = left.indices[own], feedback[begins[user] : begins[user + 1]]
        value[items], rated[items], chosen[all_items] = left.data[own], True, True
        yield rows, value, rated, chosen
        value[items], rated[items], chosen[all_items] = 0.0, False, False
