"""A vector of an encoder as one more field."""

import torch
from torch import Tensor, nn

from peterrec.mlp import RowLinear


class VectorField(nn.Module):
    """A user's or an item's vector `(B, D)`, normalised without weights, by a linear map to `(B, channels)`.

    A row without one (a user of whom nothing could be read, an item that the encoder does not know) has a vector of
    its own. Both start at normal noise of standard deviation `std` on what is read. Computed in float32 at least, under
    autocast too: what it gives is a summand of a logit, or multiplied with others to be one.
    """

    def __init__(self, width: int, channels: int, *, std: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.map = RowLinear(width, channels)
        self.none = nn.Parameter(torch.zeros(channels))
        nn.init.normal_(self.map.weight, std=std * width**-0.5)
        nn.init.zeros_(self.map.bias)
        nn.init.normal_(self.none, std=std)

    def forward(self, vectors: Tensor, there: Tensor) -> Tensor:
        """`vectors` `(B, D)`, and whether each row has one `(B,)`."""
        with torch.autocast(vectors.device.type, enabled=False):
            x = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            return torch.where(there.unsqueeze(1), self.map(self.norm(x)), self.none)
