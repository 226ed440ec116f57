"""Histories as a sparse matrix of users by items."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import RefusedError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Histories = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Flat vocabulary rows, and how many of them each of the N users has (N,)."""


def count_matrix(histories: Histories, *, num_items: int) -> "csr_array":
    """How often each user had each item: (N, V) float64, V = 3 + num_items, special columns empty.

    Raises RefusedError on a row that the vocabulary does not have.
    """
    from scipy.sparse import csr_array

    flat, lengths = (np.asarray(part) for part in histories)
    assert lengths.sum() == len(flat)
    num_rows = FIRST_ITEM + num_items
    outside = np.flatnonzero((flat < 0) | (flat >= num_rows))
    if len(outside):
        raise RefusedError(
            f"A history holds vocabulary row {flat[outside[0]]}, but the vocabulary has rows 0 to "
            f"{num_rows - 1}. Prepare the data with the vocabulary that the model was made with."
        )
    items = flat >= FIRST_ITEM
    before = np.concatenate([[0], np.cumsum(items)])
    ends = before[np.concatenate([[0], np.cumsum(lengths)])]
    matrix = csr_array((np.ones(before[-1]), flat[items], ends), shape=(len(lengths), num_rows))
    matrix.sum_duplicates()
    return matrix


def last_items(histories: Histories, *, count: int) -> Histories:
    """The last `count` items of each history, fewer where there are fewer; special rows are left out."""
    flat, lengths = (np.asarray(part) for part in histories)
    items = flat >= FIRST_ITEM
    owners = np.repeat(np.arange(len(lengths)), lengths)[items]
    kept = np.bincount(owners, minlength=len(lengths))
    from_end = np.cumsum(kept)[owners] - np.arange(len(owners))  # 1 for the last item of a user
    return flat[items][from_end <= count], np.minimum(kept, count)
