"""Weights by how fast each loss falls."""

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present


class DWA(Balancer):
    """Dynamic weight average (Liu, Johns & Davison, CVPR 2019, eq. 7): T softmax(r / temperature).

    r is an objective's mean loss in the last window of steps over that in the window before. A window has `window`
    steps, or those of an epoch (0). Until an objective has had two windows, its r is 1. One that had no target in a
    window keeps its windows.
    """

    def __init__(self, objectives: int, *, window: int, temperature: float):
        super().__init__(objectives)
        self.window = window
        self.temperature = temperature
        self.sums: Tensor
        self.counts: Tensor
        self.last: Tensor  # mean losses of the last window, and of the one before; 0: not yet known
        self.before: Tensor
        for name in ("sums", "counts", "last", "before"):
            self.register_buffer(name, torch.zeros(objectives))
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def weights(self) -> Tensor:
        known = (self.before > 0) & (self.last > 0)
        ratio = torch.where(known, self.last / torch.where(known, self.before, 1.0), 1.0)
        return self.objectives * torch.softmax(ratio / self.temperature, dim=0)

    def update(self, losses: Tensor, *, present: Present) -> None:
        mask = self.mask(present)
        self.sums += torch.where(mask, losses.to(self.sums.dtype), 0.0)
        self.counts += mask
        self.steps += 1
        if self.window:  # its end is found on the device, which nobody waits for
            self._turn(self.steps % self.window == 0)

    def end_epoch(self) -> dict[int, float]:
        if not self.window:
            self._turn(self.steps > 0)
        return super().end_epoch()

    def _turn(self, over: Tensor) -> None:
        """Begins a window where the one under way is `over` `()`."""
        turns = over & (self.counts > 0)
        self.before.copy_(torch.where(turns, self.last, self.before))
        self.last.copy_(torch.where(turns, self.sums / self.counts.clamp(min=1), self.last))
        self.sums.copy_(torch.where(over, 0.0, self.sums))
        self.counts.copy_(torch.where(over, 0.0, self.counts))
