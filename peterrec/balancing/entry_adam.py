"""Adam on a few numbers, of which some may have nothing to learn from in a step."""

import torch
from torch import Tensor, nn

BETAS = (0.9, 0.999)
EPS = 1e-8


class EntryAdam(nn.Module):
    """Adam (Kingma & Ba, ICLR 2015) on a vector `(T,)`, without decay; each entry counts its own steps."""

    def __init__(self, entries: int, *, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate
        self.first: Tensor
        self.second: Tensor
        self.steps: Tensor
        for name in ("first", "second", "steps"):
            self.register_buffer(name, torch.zeros(entries))

    def step(self, values: Tensor, gradient: Tensor, *, mask: Tensor) -> Tensor:
        """`values` `(T,)` after a step along `gradient` `(T,)`; those outside `mask` `(T,)` and their moments stay."""
        self.steps += mask
        for moment, beta, seen in ((self.first, BETAS[0], gradient), (self.second, BETAS[1], gradient.square())):
            moment.copy_(torch.where(mask, torch.lerp(seen.to(moment.dtype), moment, beta), moment))
        steps = self.steps.clamp(min=1)
        first = self.first / (1 - BETAS[0] ** steps)
        second = self.second / (1 - BETAS[1] ** steps)
        return torch.where(mask, values - self.learning_rate * first / (second.sqrt() + EPS), values)
