"""Where heads start: at the constants that explain the labels best, so that no step goes into learning base rates."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from peterrec.heads.compose import Derived, compose
from peterrec.impression_recipe import Head
from peterrec.objective_recipe import Objective

STEPS = 50  # of Newton's method; a handful is enough


def starting_logits(
    heads: Sequence[Head],
    *,
    derived: Mapping[str, Derived],
    objectives: Sequence[Objective],
    rates: Sequence[float],
) -> dict[str, float]:
    """The logit of each probability (or odds) that, as a constant, lowers the weighted sum of `bce` objectives most.

    `rates` are the shares of positives on the training rows of each objective's space, by weight. What the objectives
    leave open (which of two factors is the smaller one) stays as near to even odds as they allow.
    """
    names = [head.name for head in heads if head.output != "value"]
    known = [(one, rate) for one, rate in zip(objectives, rates, strict=True) if one.loss == "bce"]
    if not names or not known:
        return dict.fromkeys(names, 0.0)

    def loss(values: Tensor) -> Tensor:
        logits = {name: value.unsqueeze(0) for name, value in zip(names, values, strict=True)}
        found = compose(logits, derived)
        total = values.new_zeros(())
        for one, rate in known:
            odds = found[one.of]
            total = total - one.weight * (rate * odds.log_p + (1 - rate) * odds.log_not_p)[0]
        return total + 1e-6 * values.square().sum()  # decides what the rates leave open

    values = torch.zeros(len(names), dtype=torch.float64)
    for _ in range(STEPS):
        point = values.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(loss(point), point)
        curvature = torch.autograd.functional.hessian(loss, values)
        assert isinstance(curvature, Tensor)
        ways, axes = torch.linalg.eigh(curvature)
        step = axes @ ((axes.T @ gradient) / ways.abs().clamp(min=1e-6))  # downhill also where it curves down
        size = float(step.norm())
        values = values - step * min(1.0, 2.0 / max(size, 1e-12))
        if size < 1e-9:
            break
    return dict(zip(names, values.tolist(), strict=True))
