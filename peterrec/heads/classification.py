"""User vector → class logits."""

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """Norm, optional hidden layers, one linear map: `(B, D)` → `(B, C)`.

    The norm (without weights of its own) makes the head indifferent to the scale of the user vectors, which differs
    widely between encoders and readouts.
    """

    def __init__(self, channels: int, classes: int, *, hidden: Sequence[int] = (), dropout: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        widths = [channels, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(nn.Dropout(dropout), *layers)
        self.output = nn.Linear(widths[-1], classes)

    def forward(self, user_vector: Tensor) -> Tensor:
        """Maps user vectors `(B, D)` to logits `(B, C)`."""
        return self.output(self.hidden(self.norm(user_vector)))
