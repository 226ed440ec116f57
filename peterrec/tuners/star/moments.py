"""Mean and variance of the rows of each domain in a batch, and the running ones that follow them."""

from typing import NamedTuple

import torch
from torch import Tensor

from peterrec.tuners.star.domains import row_vectors


class Moments(NamedTuple):
    """Of K domains: `mean`, `var` and the unbiased variance `(K, D)`; `several` `(K, 1)`, whether two rows or more.

    Without, the others mean nothing.
    """

    mean: Tensor
    var: Tensor
    unbiased: Tensor
    several: Tensor


def domain_moments(x: Tensor, index: Tensor, *, num_domains: int) -> Moments:
    """The moments of each domain's rows of `(B, D)` or `(B, D, L)`; `index` `(B,)`, from K on in none."""
    member = (index.unsqueeze(1) == torch.arange(num_domains, device=x.device)).to(x.dtype)  # (B, K)
    rows = member.sum(0).unsqueeze(1)
    values = (rows * x.shape[2:].numel()).clamp(min=1)
    mean = (member.T @ _over_positions(x)) / values
    centred = x - row_vectors(mean, index, dims=x.dim(), axis=1)
    var = (member.T @ _over_positions(centred.square())) / values
    return Moments(mean, var, var * values / (values - 1).clamp(min=1), rows > 1)


@torch.no_grad()
def follow(
    mean: Tensor, var: Tensor, batches: Tensor, moments: Moments, *, momentum: float | None, fresh: bool = False
) -> None:
    """Moves running statistics `(K, D)` of domains with several rows by the momentum (None: to the average).

    `batches` `(K,)` counts the batches that each has followed. With `fresh` statistics, which start from nothing, the
    first batches are averaged until the momentum is the smaller step: what they started from then leaves no trace.
    """
    batches += moments.several.squeeze(1)
    average = 1 / batches.clamp(min=1).unsqueeze(1).to(mean.dtype)
    step = average if momentum is None else average.clamp(min=momentum) if fresh else momentum
    step = torch.where(moments.several, step, 0.0).to(mean.dtype)
    mean.lerp_(moments.mean, step)
    var.lerp_(moments.unbiased, step)


def _over_positions(x: Tensor) -> Tensor:
    """Sums `(B, D, L)` over positions to `(B, D)`."""
    return x if x.dim() == 2 else x.sum(2)
