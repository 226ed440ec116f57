"""What callers give `top_items`, checked."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peterrec.errors import DataError, SettingsError

Rows = Tensor | NDArray[np.integer] | Sequence[int]


def check_sizes(
    vectors: Tensor,
    table: Tensor,
    bias: Tensor | None,
    *,
    k: int,
    first_row: int,
    chunk: int | None,
    excluded: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> None:
    """Raises SettingsError where the arguments of `top_items` do not fit together."""
    for name, number, least in (("k", k, 1), ("chunk", 1 if chunk is None else chunk, 1), ("first_row", first_row, 0)):
        if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < least:
            raise SettingsError(f"{name} is a whole number of at least {least}, got {number!r}.")
    if vectors.dim() != 2 or table.dim() != 2 or vectors.shape[1] != table.shape[1]:
        raise SettingsError(
            f"vectors (N, D) and table (V, D) need the same D, got {tuple(vectors.shape)} and {tuple(table.shape)}."
        )
    if bias is not None and bias.shape != table.shape[:1]:
        raise SettingsError(f"bias must hold one number a row, ({len(table)},), got {tuple(bias.shape)}.")
    if excluded is None:
        return
    counts = excluded[1]
    if len(counts) != len(vectors) or int(counts.sum()) != len(excluded[0]) or bool((counts < 0).any()):
        raise SettingsError(
            f"excluded must hold a number of rows for each of the {len(vectors)} queries, and those rows one after "
            f"the other; got {len(excluded[1])} numbers that add up to {int(excluded[1].sum())}, and "
            f"{len(excluded[0])} rows."
        )


def whole_numbers(numbers: Rows, name: str) -> NDArray[np.int64]:
    """Numbers `(n,)` as int64 on the host; raises DataError for others than whole ones."""
    own = numbers.cpu().numpy() if isinstance(numbers, Tensor) else np.asarray(numbers)
    if own.ndim != 1 or (len(own) and own.dtype.kind not in "iu"):
        raise DataError(f"{name} must be whole numbers (n,), got {own.dtype} {own.shape}.")
    return own.astype(np.int64)


def rows_on_host(rows: Rows, num_rows: int, name: str) -> NDArray[np.int64]:
    """Rows as int64 on the host; raises DataError for one outside the table."""
    own = whole_numbers(rows, name)
    outside = (own < 0) | (own >= num_rows)
    if outside.any():
        raise DataError(f"{name} holds row {own[outside][0]}, but the table has the rows 0 to {num_rows - 1}.")
    return own
