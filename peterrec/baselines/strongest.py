"""The strongest entries of each row of a sparse matrix."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def strongest(matrix: "csr_array", *, count: int) -> "csr_array":
    """The `count` largest stored entries of each row of `matrix` (N, M); of equal ones those of the lower columns."""
    from scipy.sparse import csr_array

    assert count > 0
    matrix.sort_indices()
    kept = np.ones(len(matrix.data), dtype=np.bool_)
    for row in np.flatnonzero(np.diff(matrix.indptr) > count):
        entries = slice(matrix.indptr[row], matrix.indptr[row + 1])
        values = matrix.data[entries]
        least = np.partition(values, len(values) - count)[len(values) - count]
        better = values > least
        equal = np.flatnonzero(values == least)
        better[equal[: count - np.count_nonzero(better)]] = True
        kept[entries] = better
    ends = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr]
    return csr_array((matrix.data[kept], matrix.indices[kept], ends), shape=matrix.shape)
