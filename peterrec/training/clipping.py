"""The norm of all gradients together, and clipping by it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from peterrec.encoders.table_shard import Owners

CAUTION = 1e-6  # as in torch.nn.utils.clip_grad_norm_


def gradient_norm(gradients: Sequence[Tensor], *, parts: Sequence[Tensor] = (), owners: Owners | None = None) -> Tensor:
    """The 2-norm `()` of `gradients`: dense ones, and the values of row-sparse ones, their duplicates summed.

    With `owners`, `parts` are this process's share of gradients of sharded tables, and the shares of all processes
    count; all call it, those without a part too.
    """
    norm = get_total_norm(gradients)
    if owners is None:
        assert not parts
        return norm
    device = next((g.device for g in (*gradients, *parts)), norm.device)
    squares = get_total_norm(parts).to(device).square()
    return (norm.to(device).square() + owners.sum(squares)).sqrt()


def clip_gradients(gradients: Sequence[Tensor], *, largest: float, norm: Tensor) -> None:
    """Scales gradients in place so that their norm, which is `norm` `()` now, is at most `largest`."""
    factor = (largest / (norm + CAUTION)).clamp(max=1.0)
    if norm.device.type == "cpu" and factor == 1:  # elsewhere that question would wait for the device
        return
    torch._foreach_mul_(list(gradients), factor)  # type: ignore[reportPrivateImportUsage]  # as torch's own clipping
