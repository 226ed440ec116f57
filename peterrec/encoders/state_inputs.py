"""What callers give a user state, checked: whole numbers in any form, item rows, and which users are meant."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.vocabulary import FIRST_ITEM, PAD, TCL
from peterrec.errors import DataError

Numbers = Tensor | NDArray[np.integer] | Sequence[int]


def tensor_of(numbers: Numbers | Sequence[Sequence[int]], *, name: str) -> Tensor:
    """Those numbers as a tensor of the same shape; raises DataError for what has no shape or is no number."""
    if isinstance(numbers, Tensor):
        return numbers
    try:
        found = np.array(numbers)  # a copy: tensors on read-only arrays are not safe
        return torch.from_numpy(found.astype(np.int64) if found.dtype.kind in "iu" or not found.size else found)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be whole numbers in a tensor, an array or a list: {error}.") from None


def check_items(rows: Tensor, *, vocab_size: int) -> bool:
    """Whether all of these are items; False where some are PAD. Raises DataError where any is something else."""
    if rows.dtype not in (torch.long, torch.int32):
        raise DataError(f"Item rows must be whole numbers (torch.long or torch.int32), got {rows.dtype}.")
    if not rows.numel():
        return True
    low, high = map(int, rows.aminmax())
    if low >= FIRST_ITEM and high < vocab_size:
        return True
    wrong = (rows != PAD) & ((rows < FIRST_ITEM) | (rows >= vocab_size))
    if bool(wrong.any()):
        place = wrong.nonzero()[0].tolist()
        row = int(rows[tuple(place)])
        what = "which vectors('tcl') reads by itself" if row == TCL else "which is no item"
        raise DataError(
            f"User {place[0]} has the vocabulary row {row}, {what}: items have the rows {FIRST_ITEM} to "
            f"{vocab_size - 1}, and {PAD} stands for no event."
        )
    return False


def places_of(users: Numbers, *, count: int, once: bool) -> Tensor:
    """Which rows of `count` users are meant, `(n,)`; raises DataError for users that are not there, or there twice."""
    places = tensor_of(users, name="users")
    if places.dim() != 1 or places.is_floating_point() or places.dtype == torch.bool:
        raise DataError(f"users must be whole numbers (n,), got {places.dtype} {tuple(places.shape)}.")
    places = places.long()
    if len(places):
        low, high = map(int, places.aminmax())
        if low < 0 or high >= count:
            wrong = low if low < 0 else high
            raise DataError(f"users names user {wrong}, but this state holds the users 0 to {count - 1}.")
        if once and len(places) > 1 and len(places.unique()) < len(places):
            raise DataError("users names a user twice. Take each once, and further events in calls of their own.")
    return places
