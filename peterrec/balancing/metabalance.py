"""Auxiliary gradients brought towards the size of a target's."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present
from peterrec.balancing.gradient_rows import GradientRows
from peterrec.errors import SettingsError, did_you_mean


class MetaBalance(Balancer):
    """MetaBalance (He et al., WWW 2022, algorithm 1): on each shared tensor, g_t times r m_target / m_t + (1 - r).

    m are moving averages of gradient norms, freed of their start at zero, so that an objective which is absent, or
    whose gradient is zero, neither changes its own nor spoils a ratio. `strategy`: A acts where m_t is above m_target,
    B where it is below, C on both. Tensors on which the target has had no gradient yet are left as they are.

    Raises SettingsError for a target that is no objective.
    """

    reads_gradients: ClassVar[bool] = True

    def __init__(
        self,
        names: Sequence[str],
        *,
        tensors: int,
        target: str | None,
        strategy: Literal["A", "B", "C"],
        relax: float,
        memory: float,
    ):
        super().__init__(len(names))
        if target is not None and target not in names:
            raise SettingsError(f"balancing.target: there is no objective {target!r}. {did_you_mean(target, names)}")
        self.target = 0 if target is None else list(names).index(target)
        self.strategy = strategy
        self.relax = relax
        self.memory = memory
        self.norms: Tensor
        self.steps: Tensor
        for name in ("norms", "steps"):
            self.register_buffer(name, torch.zeros(tensors, len(names)))

    def coefficients(self, rows: GradientRows, *, present: Present) -> Tensor:
        now = rows.norms()
        seen = self.mask(present) & (now > 0)
        self.norms.copy_(torch.where(seen, torch.lerp(now, self.norms, self.memory), self.norms))
        self.steps += seen
        known = self.steps > 0
        norms = self.norms / torch.where(known, 1 - self.memory**self.steps, 1.0)
        target = norms[:, self.target : self.target + 1]
        acts = known & known[:, self.target : self.target + 1]
        if self.strategy == "A":
            acts &= norms > target
        elif self.strategy == "B":
            acts &= norms < target
        ratio = torch.where(acts, target / torch.where(acts, norms, 1.0), 1.0)
        return self.relax * ratio + (1 - self.relax)
