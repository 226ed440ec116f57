"""Weights by the noise that each objective is learned to have."""

from collections.abc import Sequence

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present
from peterrec.balancing.entry_adam import EntryAdam


class Uncertainty(Balancer):
    """Learns s = log of a variance for each objective (Kendall, Gal & Cipolla, CVPR 2018).

    A classification (cross-entropy) adds exp(-s) L + s / 2, a regression (`squared`) exp(-s) L / 2 + s / 2. At a loss
    that stays, both come to the weight 1 / (2 L): s is neither clamped nor decays, and has a learning rate of its own.
    """

    def __init__(self, squared: Sequence[bool], *, learning_rate: float):
        super().__init__(len(squared))
        self.s: Tensor
        self.register_buffer("s", torch.zeros(len(squared)))
        self.share: Tensor
        self.register_buffer("share", torch.tensor([0.5 if one else 1.0 for one in squared]), persistent=False)
        self.adam = EntryAdam(len(squared), learning_rate=learning_rate)

    def weights(self) -> Tensor:
        return self.share * torch.exp(-self.s)

    def update(self, losses: Tensor, *, present: Present) -> None:
        slope = 0.5 - self.weights() * losses.to(self.s.dtype)
        self.s.copy_(self.adam.step(self.s, slope, mask=self.mask(present)))
