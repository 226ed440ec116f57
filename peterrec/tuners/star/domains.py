"""Which domain each row of a batch belongs to, and the weights of that domain, for layers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from peterrec.tuners.star.grouped import grouped_linear


def domain_index(domain_ids: Tensor | None, *, rows: int, num_domains: int) -> Tensor | None:
    """The domain of each row `(B,)`, `num_domains` where it is unknown; None if all rows are of the only domain.

    Raises ValueError where `domain_ids` is missing with several domains, or is not long of the shape `(B,)`.
    """
    if domain_ids is None:
        if num_domains == 1:
            return None
        raise ValueError(
            f"This adapter has {num_domains} domains: pass domain_ids (B,), the domain of each row, "
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

    The result `(B, L, D_out)` is time-major in memory. Rows are grouped by domain and each group is multiplied by its
    own matrix, so that no tensor holds a matrix a row.
    """
    if index is None:
        return _time_major_linear(x, weights[0])
    known = (index < len(weights)).view(-1, *[1] * (x.dim() - 1))
    if len(weights) == 1:
        y = _time_major_linear(x, weights[0])
    else:
        # Rows of unknown domains go through the last one and are cleared afterwards: groups have no gaps then.
        y = _grouped_linear(x, weights, index.clamp(max=len(weights) - 1))
    return torch.where(known, y, 0.0)


def _time_major_linear(x: Tensor, weight: Tensor) -> Tensor:
    if x.dim() < 3:
        return F.linear(x, weight)
    return F.linear(x.transpose(0, 1), weight).transpose(0, 1)


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
