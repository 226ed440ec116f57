"""How well two vectors of each user find each other among those of other users."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 1024


def matching_recall(first: Tensor, second: Tensor, *, k: int) -> float:
    """How often a user's own vector is among the `k` nearest by cosine, `first` `(U, D)` to `second` `(U, D)`.

    The mean of both directions. An own vector that others tie with counts by its expected place. Of vectors of zeros
    the cosine is 0.
    """
    first, second = (F.normalize(each.double(), dim=1) for each in (first, second))
    hits = torch.zeros((), dtype=torch.float64, device=first.device)
    for one, other in ((first, second), (second, first)):
        for begin in range(0, len(one), ROWS_AT_ONCE):
            rows = one[begin : begin + ROWS_AT_ONCE]
            scores = rows @ other.t()
            own = (rows * other[begin : begin + ROWS_AT_ONCE]).sum(dim=1, keepdim=True)
            # equal vectors differ by rounding: the own one was summed in another order
            close = (scores - own).abs() <= 1e-12
            above = ((scores > own) & ~close).sum(dim=1)
            ties = close.sum(dim=1).clamp(min=1)
            hits += ((k - above) / ties).clamp(0, 1).sum()
    return float(hits / max(2 * len(first), 1))
