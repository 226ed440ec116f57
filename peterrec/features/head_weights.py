"""What each head takes of products that all share."""

import torch
from torch import Tensor, nn


class HeadWeights(nn.Module):
    """Products a channel `(B, D)` to a logit a head `(B, H)`: their sum where there is one head, as published.

    Of several heads each weighs the channels, at the start by 1: click and conversion share what has been learned of
    rare values, and may want different channels of it, or one with the opposite sign.
    """

    def __init__(self, heads: int, channels: int):
        super().__init__()
        # a vector, not a matrix: it is not to decay to zero, which would be no interaction at all
        self.weight = nn.Parameter(torch.ones(heads * channels)) if heads > 1 else None

    def forward(self, products: Tensor) -> Tensor:
        """`(B, D)` to `(B, H)`."""
        if self.weight is None:
            return products.sum(1, keepdim=True)
        return (products.unsqueeze(1) * self.weight.view(-1, products.shape[1])).sum(2)
