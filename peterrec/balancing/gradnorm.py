"""Weights by which the objectives' gradients come to norms that follow how fast each learns."""

from typing import ClassVar

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present
from peterrec.balancing.entry_adam import EntryAdam
from peterrec.balancing.gradient_rows import GradientRows

SMALLEST = 1e-3  # of a weight: at 0 an objective would have no gradient to come back by


class GradNorm(Balancer):
    """GradNorm (Chen et al., ICML 2018, eq. 1 and 2), on all that objectives share.

    G_t is the norm of the gradient of w_t L_t, r_t the share of L_t(0) that is left, over the mean share. The weights
    lower the sum of |G_t - mean(G) r_t^alpha|, whose second term is held constant, and are scaled to sum to T. L_t(0)
    is the mean of an objective's first `start` steps; only objectives that have it, are present and have a gradient
    take part.
    """

    reads_gradients: ClassVar[bool] = True

    def __init__(self, objectives: int, *, alpha: float, start: int, learning_rate: float):
        super().__init__(objectives)
        self.alpha = alpha
        self.start = start
        self.w: Tensor
        self.first: Tensor  # summed losses of the first steps, and how many there have been
        self.steps: Tensor
        self.norms: Tensor
        self.register_buffer("w", torch.ones(objectives))
        for name in ("first", "steps"):
            self.register_buffer(name, torch.zeros(objectives))
        self.register_buffer("norms", torch.zeros(objectives), persistent=False)
        self.adam = EntryAdam(objectives, learning_rate=learning_rate)

    def weights(self) -> Tensor:
        return self.w

    def coefficients(self, rows: GradientRows, *, present: Present) -> Tensor:
        self.norms.copy_(torch.linalg.vector_norm(rows.norms(), dim=0))
        return torch.ones_like(self.w)  # the losses have their weights already

    def update(self, losses: Tensor, *, present: Present) -> None:
        mask = self.mask(present)
        losses = losses.to(self.w.dtype)
        known = self.steps >= self.start
        taking = mask & ~known
        self.first += torch.where(taking, losses, 0.0)
        self.steps += taking
        part = mask & known & (self.norms > 0) & (self.first > 0)
        number = part.sum().clamp(min=1)
        left = torch.where(part, losses * self.start / torch.where(part, self.first, 1.0), 0.0)
        rate = left / (left.sum() / number).clamp(min=torch.finfo(left.dtype).tiny)
        target = torch.where(part, self.norms, 0.0).sum() / number * rate**self.alpha
        slope = self.norms / self.w * torch.sign(self.norms - target)
        moved = self.adam.step(self.w, slope, mask=part).clamp(min=SMALLEST)
        self.w.copy_(moved * (self.objectives / moved.sum()))
