"""Which domain each row of a batch belongs to, and the weights of that domain, for layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from peterrec.tuners.star.grouped import grouped_linear, in_one_call

FEW_OUTPUTS = 64  # of all domains together: below, one product is quicker than grouping
MOST_VALUES = 2**26  # outputs of all rows and domains that are computed to keep an accelerator from waiting


def domain_index(domain_ids: Tensor | None, *, rows: int, num_domains: int) -> Tensor | None:
    """The domain of each row `(B,)`, `num_domains` where it is unknown; None if all rows are of the only domain.

    Raises ValueError where `domain_ids` is missing with several domains, or is not long of the shape `(B,)`.
    """
    if domain_ids is None:
        if num_domains == 1:
            return None
        raise ValueError(
            f"This model has {num_domains} domains: pass domain_ids (B,), the domain of each row, "
            "from 0; -1 where it is not known."
        )
    if not isinstance(domain_ids, Tensor) or domain_ids.dtype != torch.long:
        kind = domain_ids.dtype if isinstance(domain_ids, Tensor) else type(domain_ids).__name__
        raise ValueError(f"domain_ids must be a tensor of whole numbers (torch.long), got {kind}.")
    if domain_ids.shape != (rows,):
        raise ValueError(
            f"domain_ids must hold one domain a row, shape ({rows},), but it has the shape {tuple(domain_ids.shape)}."
        )
    known = (domain_ids >= 0) & (domain_ids < num_domains)
    return torch.where(known, domain_ids, num_domains)


def row_vectors(table: Tensor, index: Tensor | None, *, dims: int, axis: int = -1) -> Tensor:
    """Each row's vector of a table `(K, D)`, zero for an unknown domain, to broadcast over `dims` axes at `axis`."""
    vectors = table[:1] if index is None else F.embedding(index, F.pad(table, (0, 0, 0, 1)))
    shape = [1] * dims
    shape[0], shape[axis] = vectors.shape
    return vectors.view(shape)


def row_linear(x: Tensor, weights: Tensor, index: Tensor | None) -> Tensor:
    """Maps each row of `(B, …, D_in)` by its domain's weight of `(K, D_out, D_in)`; zero for an unknown domain.

    The result `(B, L, D_out)` is time-major in memory.
    """
    if index is None or len(weights) == 1:
        y = _time_major_linear(x, weights[0])
        if index is None:
            return y
    else:
        # Rows of unknown domains go through the last one and are cleared afterwards: groups have no gaps then.
        y = chosen_linear(x, weights, index.clamp(max=len(weights) - 1))
    known = (index < len(weights)).view(-1, *[1] * (x.dim() - 1))
    return torch.where(known, y, 0.0)


def chosen_linear(x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    """Maps each row of `(B, …, D_in)` by the weight of `(K, D_out, D_in)` that `index` `(B,)` names.

    No tensor holds a matrix a row. Where all the outputs of all K weights are few, or an accelerator would have to wait
    for the sizes of the groups, every row goes through all of them and keeps its own; else rows are grouped, and each
    group is multiplied by its own matrix. The result `(B, L, D_out)` is time-major in memory.
    """
    outputs = weights.shape[0] * weights.shape[1]
    few = outputs <= FEW_OUTPUTS
    waits = x.device.type != "cpu" and not in_one_call(x, *weights.shape[1:])
    if few or (waits and x.shape[:-1].numel() * outputs <= MOST_VALUES):
        return _linear_of_all(x, weights, index)
    return _grouped_linear(x, weights, index)


def _time_major_linear(x: Tensor, weight: Tensor) -> Tensor:
    if x.dim() < 3:
        return F.linear(x, weight)
    return F.linear(x.transpose(0, 1), weight).transpose(0, 1)


def _linear_of_all(x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    every = _time_major_linear(x, weights.flatten(0, 1)).unflatten(-1, weights.shape[:2])
    own = index.view(-1, *[1] * x.dim()).expand(*x.shape[:-1], 1, weights.shape[1])
    return every.gather(-2, own).squeeze(-2)


def _grouped_linear(x: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    order = index.argsort(stable=True)
    back = order.argsort()
    by_domain = x.index_select(0, order)
    rows = by_domain.reshape(-1, x.shape[-1])
    counts = (index.unsqueeze(1) == torch.arange(len(weights), device=index.device)).sum(0)
    counts = counts * x.shape[1:-1].numel()
    y = grouped_linear(rows, weights, counts)
    y = y.view(*by_domain.shape[:-1], weights.shape[1])
    if x.dim() < 3:
        return y.index_select(0, back)
    return y.transpose(0, 1).index_select(1, back).transpose(0, 1)
