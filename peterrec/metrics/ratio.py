"""A quotient that is undefined, not infinite, where nothing was counted."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ratio(above: Floats, below: Floats) -> Floats:
    """`above` / `below` where `below` > 0, NaN elsewhere: a replicate that drew none of the rows."""
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)
