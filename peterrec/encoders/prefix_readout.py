"""The user vectors of all prefixes of a window, from one pass over it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peterrec.encoders.readout import SUMS, Readout

PREFIX_READOUTS = ("last", "first_last", *SUMS)  # those that `prefix_pooled` knows


def prefix_pooled(reader: Readout, states: Sequence[Tensor]) -> Tensor:
    """What `reader.pooled` gives for the first 1, 2, …, L positions of each row: `(N, L, K, D)`.

    For the states `(N, L, D)` of the K chosen layers of a causal encoder, padded on the right: at padding the result
    means nothing. Sums are taken in float32 or wider, as the readout's own.
    """
    assert reader.kind in PREFIX_READOUTS, reader.kind
    stacked = torch.stack([one.float() if one.dtype.itemsize < 4 else one for one in states], dim=2)
    if reader.kind == "last":
        return stacked
    if reader.kind == "first_last":
        return stacked + stacked[:, :1]
    count = torch.arange(1, stacked.shape[1] + 1, dtype=stacked.dtype, device=stacked.device).view(1, -1, 1, 1)
    return stacked.cumsum(dim=1) / (count if reader.kind == "mean" else count.sqrt())
