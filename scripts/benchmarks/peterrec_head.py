"""The product's softmax losses as functions of states, table and targets."""

import torch.nn.functional as F
from torch import Tensor

from peterrec.objectives.negatives import Negatives
from peterrec.objectives.sampled_softmax import sampled_softmax_loss
from peterrec.objectives.softmax import exact_softmax_loss


def exact(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` among all rows of `table` `(V, D)`, special rows included."""
    return exact_softmax_loss(hidden, table, targets, first_row=0)


def sampled(
    hidden: Tensor, table: Tensor, targets: Tensor, *, negatives: Negatives, target_log_counts: Tensor
) -> Tensor:
    """Mean cross-entropy of `targets` `(N,)` among shared `negatives`; the gradient of `table` is row-sparse."""
    return sampled_softmax_loss(
        hidden,
        target_rows=F.embedding(targets, table, sparse=True),
        negative_rows=F.embedding(negatives.rows, table, sparse=True),
        targets=targets,
        negatives=negatives.rows,
        log_counts=negatives.log_counts,
        target_log_counts=target_log_counts,
    )
