"""What a network of impressions reads of a row beside its fields: an encoder's vectors, and the domain."""

import torch
from torch import Tensor, nn


class VectorInput(nn.Module):
    """User and item vectors of an encoder, as an input: each mapped to `width` channels, and their product.

    They are normalised (without weights), since their scale differs widely between encoders. A user of whom nothing
    could be read has a vector of its own, an item that the encoder does not know as well.
    """

    def __init__(self, channels: int, *, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.user = nn.Linear(channels, width)
        self.item = nn.Linear(channels, width)
        self.no_user = nn.Parameter(torch.zeros(width))
        self.no_item = nn.Parameter(torch.zeros(width))
        self.channels = 3 * width

    def forward(self, users: Tensor, known: Tensor, items: Tensor) -> Tensor:
        """`users` and `items` `(B, D)`, `known` `(B,)`, to `(B, 3 · width)`."""
        user = torch.where(known.unsqueeze(1), self.user(self.norm(users)), self.no_user)
        there = (items != 0).any(dim=1, keepdim=True)
        item = torch.where(there, self.item(self.norm(items)), self.no_item)
        return torch.cat([user, item, user * item], dim=1)


class DomainInput(nn.Module):
    """A vector a domain `(B, dim)`; an unknown one has zeros."""

    def __init__(self, domains: int, *, dim: int):
        super().__init__()
        self.table = nn.Embedding(domains + 1, dim)
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        with torch.no_grad():
            self.table.weight[0] = 0.0
        self.domains = domains

    def forward(self, domain_ids: Tensor) -> Tensor:
        known = (domain_ids >= 0) & (domain_ids < self.domains)
        vectors = self.table(torch.where(known, domain_ids + 1, 0))
        return torch.where(known.unsqueeze(1), vectors, 0.0)
