"""Two towers on fields, and how well their vectors match."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.mlp import MLP, RowLinear


class VectorTower(nn.Module):
    """The vectors of some of the F fields to one vector: `(B, F, dim)` → `(B, M)`.

    ReLU in all layers but the last, which is tanh: with ReLU there too, no product of two vectors would be negative
    (DeepMCP, Ouyang et al., IJCAI 2019, §3.4). `places` are those of the fields, M the last of `hidden`.
    """

    def __init__(self, places: Sequence[int], *, dim: int, hidden: Sequence[int]):
        super().__init__()
        self.places = tuple(places)
        self.mlp = MLP(len(self.places) * dim, hidden[:-1])
        self.output = RowLinear(self.mlp.channels, hidden[-1])

    def forward(self, vectors: Tensor) -> Tensor:
        read = torch.cat([vectors[:, place] for place in self.places], dim=1)
        return self.output(self.mlp(read)).tanh()


class TwoTowers(nn.Module):
    """The logit v_u · v_a `(B,)` that user and item match, of vectors of fields `(B, F, dim)`, in float32 at least."""

    def __init__(self, left: VectorTower, right: VectorTower):
        super().__init__()
        self.left = left
        self.right = right

    def forward(self, vectors: Tensor) -> Tensor:
        left, right = self.left(vectors), self.right(vectors)
        kind = torch.promote_types(left.dtype, torch.float32)
        return (left.to(kind) * right.to(kind)).sum(-1)
