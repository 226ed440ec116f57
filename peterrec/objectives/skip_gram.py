"""Skip-gram with negative sampling."""

import torch
import torch.nn.functional as F
from torch import Tensor


def skip_gram(centre: Tensor, context: Tensor, negatives: Tensor) -> Tensor:
    """-log σ(h_i · h_j) - Σ_q log σ(-h_i · h_q) of each pair `(P,)`, in float32 at least.

    `centre` and `context` `(P, M)` are vectors of items that a user took near each other, `negatives` `(P, Q, M)` of
    drawn ones (Mikolov et al., NeurIPS 2013, eq. 4; the correlation loss of DeepMCP, Ouyang et al., IJCAI 2019).
    """
    kind = torch.promote_types(centre.dtype, torch.float32)
    centre, context, negatives = centre.to(kind), context.to(kind), negatives.to(kind)
    near = (centre * context).sum(-1)
    far = (negatives * centre.unsqueeze(1)).sum(-1)
    return F.softplus(-near) + F.softplus(far).sum(-1)
