"""User vector → class logits."""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HeadLinear(nn.Linear):
    """A linear map `(B, D_in)` to `(B, D_out)`. It makes no use of `domain_ids` `(B,)`: a tuner that wraps it does."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return F.linear(input, self.weight, self.bias)


class HeadNorm(nn.LayerNorm):
    """Normalises `(B, D)`; `domain_ids` as for `HeadLinear`."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return super().forward(input)


class HeadScale(nn.Module):
    """Centres vectors `(B, D)` and divides them by one number for all, both found in the training users.

    So lengths and directions keep their meaning, as in the regressions of the baselines. `domain_ids` as for
    `HeadLinear`.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, vectors: Tensor) -> Tensor:
        """Takes the mean of `vectors` `(N, D)`, and the root of their mean squared norm around it; they, so scaled."""
        vectors = vectors.double()
        center = vectors.mean(dim=0)
        scale = (vectors - center).square().sum(dim=1).mean().sqrt()
        scale = torch.where(scale > 0, scale, 1.0)
        self.center.copy_(center)
        self.scale.copy_(scale)
        return (vectors - center) / scale

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return (input - self.center) / self.scale


class ClassificationHead(nn.Module):
    """Norm, optional hidden layers, one linear map: `(B, D)` → `(B, C)`.

    The norm (without weights of its own) makes the head indifferent to the scale of the user vectors, which differs
    widely between encoders and readouts. With `common_scale` all vectors are divided by the same number instead.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        common_scale: bool = False,
    ):
        super().__init__()
        self.norm = HeadScale(channels) if common_scale else HeadNorm(channels, elementwise_affine=False)
        widths = [channels, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [HeadLinear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(nn.Dropout(dropout), *layers)
        self.output = HeadLinear(widths[-1], classes)

    def forward(self, user_vector: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        """Maps user vectors `(B, D)`, with a domain each `(B,)` or none, to logits `(B, C)`."""
        x = self.norm(user_vector, domain_ids=domain_ids)
        for layer in self.hidden:
            x = layer(x) if isinstance(layer, nn.ReLU | nn.Dropout) else layer(x, domain_ids=domain_ids)
        return self.output(x, domain_ids=domain_ids)
