"""The mix of the objectives' gradients that is shortest, none of them below a floor."""

from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from peterrec.balancing.balancer import Balancer, Present
from peterrec.balancing.gradient_rows import GradientRows
from peterrec.errors import SettingsError

MOST = 10  # objectives: all their subsets are tried
RIDGE = 1e-10  # of the mean squared norm: collinear gradients have many shortest mixes


class PELTR(Balancer):
    """Pareto-efficient learning to rank (Lin et al., RecSys 2019): min |Σ ω_t g_t|² with Σ ω = 1 and ω_t ≥ `floor`.

    Solved exactly, where the paper relaxes and projects. Only objectives with a target in the step take part: a
    gradient that is zero since nothing was there would take all the weight. The gradients are multiplied by ω times
    the number of those that take part, so that even weights are the sum.

    Raises SettingsError for more than 10 objectives, and for a floor that they cannot all have.
    """

    reads_gradients: ClassVar[bool] = True

    def __init__(self, objectives: int, *, floor: float):
        super().__init__(objectives)
        if objectives > MOST:
            raise SettingsError(f"balancer = 'pe_ltr' takes at most {MOST} objectives; the task has {objectives}.")
        if floor * objectives > 1:
            raise SettingsError(
                f"balancing.floor = {floor:g}: {objectives} objectives cannot all weigh as much, since their weights "
                f"sum to 1. Set at most {1 / objectives:g}."
            )
        self.floor = floor

    def coefficients(self, rows: GradientRows, *, present: Present) -> Tensor:
        there = [number for number, one in enumerate(present) if one]
        found = torch.ones_like(self.told)
        if len(there) < 2:
            return found
        found[there] = (len(there) * shortest_mix(rows.gramian(there), floor=self.floor)).to(found.dtype)
        return found


def shortest_mix(gramian: Tensor, *, floor: float) -> Tensor:
    """The exact ω `(T,)` of a Gramian `(T, T)`: the best of the solutions on all faces of what is allowed.

    On a face some weights lie at the floor and the others solve a linear system; all faces are solved in one batch.
    """
    number = len(gramian)
    exact = torch.float32 if gramian.device.type == "mps" else torch.float64
    own = gramian.to(exact)
    own = own / own.diagonal().mean().clamp(min=torch.finfo(exact).tiny)
    free = torch.tensor(list(product((False, True), repeat=number))[1:], device=own.device)  # (F, T)
    one = torch.eye(number, dtype=exact, device=own.device)
    both = free.unsqueeze(1) & free.unsqueeze(2)
    system = own.new_zeros(len(free), number + 1, number + 1)
    system[:, :number, :number] = torch.where(both, own + RIDGE * one, torch.where(free.unsqueeze(2), 0.0, one))
    system[:, :number, number] = free.to(exact)
    system[:, number, :number] = free.to(exact)
    # ω = floor + v: own v + λ = -own floor on the free ones, v = 0 on the others, Σ v = 1 - T floor
    right = torch.zeros(len(free), number + 1, dtype=exact, device=own.device)
    right[:, :number] = torch.where(free, -floor * own.sum(1), 0.0)
    right[:, number] = 1 - number * floor
    v = torch.linalg.solve_ex(system, right.unsqueeze(-1))[0].squeeze(-1)[:, :number]
    allowed = (v >= -1e-9).all(1) & torch.isfinite(v).all(1)
    mixes = v.clamp(min=0) + floor
    mixes = mixes / mixes.sum(1, keepdim=True)
    length = torch.where(allowed, ((mixes @ own) * mixes).sum(1), torch.inf)
    return mixes[length.argmin()]
