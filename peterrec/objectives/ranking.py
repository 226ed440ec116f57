"""Losses that teach queries to score their target above other items of a catalogue."""

import torch
import torch.nn.functional as F
from torch import Tensor

from peterrec.objectives.negatives import Negatives
from peterrec.objectives.sampled_softmax import sampled_softmax_loss
from peterrec.objectives.softmax import exact_softmax_loss

ALIGNED = 8  # channels: what half-precision products want


def softmax_loss(queries: Tensor, table: Tensor, targets: Tensor, *, bias: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of `targets` `(B,)` among all items of `table` `(W, D)` by `queries` `(B, D)` and `bias`."""
    joined = _joined(queries, table, bias)
    return exact_softmax_loss(*joined, targets)


def sampled_loss(
    queries: Tensor,
    *,
    target_vectors: Tensor,
    negative_vectors: Tensor,
    targets: Tensor,
    negatives: Negatives,
    target_log_counts: Tensor,
    target_bias: Tensor | None = None,
    negative_bias: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of `targets` `(B,)` among themselves and `negatives` `(K,)`, which all queries share.

    Vectors `(B, D)` and `(K, D)`, biases `(B,)` and `(K,)`. Scores are corrected by the log of how often an item is
    expected among the negatives, and a target that was drawn as well is left out: see `sampled_softmax_loss`.
    """
    vectors = torch.cat([target_vectors, negative_vectors])
    bias = None if target_bias is None or negative_bias is None else torch.cat([target_bias, negative_bias])
    queries, vectors = _joined(queries, vectors, bias)
    target_vectors, negative_vectors = vectors.split([len(targets), len(negatives.rows)])
    return sampled_softmax_loss(
        queries,
        target_rows=target_vectors,
        negative_rows=negative_vectors,
        targets=targets,
        negatives=negatives.rows,
        log_counts=negatives.log_counts,
        target_log_counts=target_log_counts,
    )


def bpr_loss(positive: Tensor, negative: Tensor, *, real: Tensor) -> Tensor:
    """Mean of −log σ(s⁺ − s⁻) over the examples, and over the negatives of each (Rendle et al., UAI 2009).

    Scores of the targets `(B,)` and of negatives `(B, K)`, in float32 at least; examples that are not `real` `(B,)`
    have no negatives, and count 0.
    """
    apart = F.softplus(negative - positive.unsqueeze(1)).mean(dim=1)
    return (apart * real).mean()


def bce_loss(positive: Tensor, negative: Tensor, *, real: Tensor) -> Tensor:
    """Mean of −log σ(s⁺) − Σ log σ(−s⁻) over the examples (Mikolov et al., NeurIPS 2013, eq. 4).

    Scores of the targets `(B,)` and of negatives `(B, K)`, in float32 at least; examples that are not `real` `(B,)`
    have no negatives, and count for their target alone.
    """
    return (F.softplus(-positive) + F.softplus(negative).sum(dim=1) * real).mean()


def pair_scores(queries: Tensor, vectors: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scores `(B, K)` of K items of each query `(B, D)`: their vectors `(B, K, D)` and `bias` `(B, K)`; in float32 at
    least, whatever precision autocast gives the products."""
    scores = torch.bmm(vectors, queries.unsqueeze(2)).squeeze(2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores if bias is None else scores + bias


def _joined(queries: Tensor, table: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Queries `(B, D + n)` and table `(W, D + n)` whose products are scores with the bias.

    Where autocast will lower the precision, the bias goes as a sum of two numbers, which keeps what one would lose.
    """
    if bias is None:
        return queries, table
    device = queries.device.type
    columns = [bias.to(table.dtype)]
    if torch.is_autocast_enabled(device):
        coarse = columns[0].detach().to(torch.get_autocast_dtype(device)).to(table.dtype)
        columns = [coarse, columns[0] - coarse]
        missing = -(table.shape[1] + len(columns)) % ALIGNED
        columns += [torch.zeros_like(coarse)] * missing
    ones = queries.new_ones(len(queries), len(columns))
    return torch.cat([queries, ones], dim=1), torch.cat([table, torch.stack(columns, dim=1)], dim=1)
