"""User-level contrast: two views of one user's history must find each other among other users."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projection(nn.Module):
    """Two layers between the user vector `(N, D)` and the space of the contrast; dropped after pretraining.

    What is read is the vector before it, which keeps what the contrast would throw away (Chen et al., SimCLR, ICML
    2020, section 4.2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, vectors: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(vectors)))


def contrastive_loss(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE between the projected views `first` and `second` `(U, D)` of U users, both ways; its mean.

    −log exp(cos(aᵢ, bᵢ) / τ) / Σⱼ exp(cos(aᵢ, bⱼ) / τ), and the same with a and b exchanged (van den Oord et al., 2018;
    Radford et al., CLIP, ICML 2021, figure 3). It is computed in float32 also under autocast: at τ = 0.1 a rounded
    cosine would move the scores too far.
    """
    precise = torch.promote_types(first.dtype, torch.float32)
    device = first.device.type
    with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
        scores = F.normalize(first.to(precise), dim=1) @ F.normalize(second.to(precise), dim=1).t() / temperature
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own)) / 2
