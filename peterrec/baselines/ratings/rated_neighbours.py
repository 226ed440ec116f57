"""Of each row the neighbours of its item that its user chose: R^k(i;u) and N^k(i;u), as ragged lists."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from peterrec.baselines.ratings.ratings import Ints, Ratings
from peterrec.baselines.ratings.user_groups import user_groups

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CELLS = 2**22  # neighbours at a time


@dataclass(frozen=True, eq=False)
class RatedNeighbours:
    """Lists of B rows, one behind the other: row r has the entries `begins[r]` to `begins[r + 1]`.

    An entry is a neighbour j of the row's item i that stands in N(u): `place` (M,) is that of the pair in the table of
    weights, i·k + its number among the k neighbours of i; `left` (M,) is r_uj − b_uj, 0 where u chose j without a
    rating. `explicit` (B,) counts those with one.
    """

    begins: Ints
    place: NDArray[np.signedinteger]
    left: NDArray[np.float32]
    explicit: Ints

    @classmethod
    def of(cls, users: Ints, items: Ints, *, similar: NDArray[np.int32], left: "csr_array", ratings: Ratings) -> Self:
        """The lists of rows (B,), by the neighbours `similar` (I + 1, k) and `left`, r − b of all pairs (U, I)."""
        count = similar.shape[1]
        kind = np.int32 if similar.size < 2**31 else np.int64
        places, lefts = [np.zeros(0, dtype=kind)], [np.zeros(0, dtype=np.float32)]
        listed = [np.zeros(0, dtype=np.int64)]  # the rows, in the order in which their entries stand
        total, explicit = (np.zeros(len(users), dtype=np.int64) for _ in range(2))
        size = max(1, CELLS // count)
        for own, value, rated, chosen in user_groups(users, left, ratings):
            for start in range(0, len(own), size):
                rows = own[start : start + size]
                near = similar[items[rows]]
                row, number = np.nonzero(chosen[near])
                found = near[row, number]
                places.append((items[rows][row] * count + number).astype(kind))
                lefts.append(value[found].astype(np.float32))
                listed.append(rows)
                total[rows] = np.bincount(row, minlength=len(rows))
                explicit[rows] = np.bincount(row, rated[found], minlength=len(rows))
        order = np.concatenate(listed)
        begins = np.concatenate([[0], np.cumsum(total[order])])
        where = np.empty_like(order)
        where[order] = np.arange(len(order))
        there, _ = entries(begins, where)
        begins = np.concatenate([[0], np.cumsum(total)])
        return cls(begins, np.concatenate(places)[there], np.concatenate(lefts)[there], explicit)


def entries(begins: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """The numbers (M,) of all entries of `rows` (B,) in lists that begin at `begins`, and how many each has (B,)."""
    counts = begins[rows + 1] - begins[rows]
    ahead = np.cumsum(counts) - counts
    return np.repeat(begins[rows] - ahead, counts) + np.arange(counts.sum()), counts
