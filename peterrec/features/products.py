"""Products of the vectors of fields."""

from collections.abc import Sequence
from functools import reduce

from torch import Tensor


def product_of(vectors: Tensor, places: Sequence[int]) -> Tensor:
    """The vectors at `places` of `(B, F, dim)`, multiplied channel by channel: `(B, dim)`.

    What a generalised matrix factorisation reads of user and item (GMF; He et al., WWW 2017, eq. 8).
    """
    return reduce(lambda one, other: one * other, (vectors[:, place] for place in places))
