"""The losses of some rows of impressions: of each objective, and of items that stand near each other."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.upload import upload
from peterrec.objective_recipe import Objective
from peterrec.objectives.group_losses import bpr_sum, lists_of, listwise_sum, pairs_of
from peterrec.objectives.impression_losses import masked_sum, row_losses
from peterrec.objectives.log_probability import LogProbability
from peterrec.objectives.skip_gram import skip_gram
from peterrec.training.correlation import Pairs
from peterrec.training.impression_labels import Wanted
from peterrec.training.impression_reader import ImpressionReader

Ints = NDArray[np.int64]


def summed_loss(one: Objective, output: Tensor | LogProbability, wanted: Wanted, *, groups: Ints | None) -> Tensor:
    """The sum of weight × loss of an objective over B rows, `()`; `groups` `(B,)` says which are ranked together."""
    device = output.log_p.device if isinstance(output, LogProbability) else output.device
    label, weight = wanted
    if one.group is None or groups is None:
        told = [upload(torch.from_numpy(each), device) for each in (label, weight)]
        return masked_sum(row_losses(one.loss, output, told[0]), told[1] > 0, told[1])[0]
    assert isinstance(output, Tensor)
    if one.loss == "bpr":
        return bpr_sum(output, *(upload(torch.from_numpy(each), device) for each in pairs_of(label, weight, groups)))
    lists = lists_of(label, weight, groups)
    place, target, weighed = (upload(torch.from_numpy(each), device) for each in lists[:3])
    return listwise_sum(output, place, target, weighed, number=lists.number)


def correlation_sum(data: ImpressionReader, pairs: Pairs, rows: Ints, *, device: torch.device) -> Tensor:
    """The skip-gram losses of those `pairs` whose centre is among `rows` `(B,)`, summed, `()`."""
    own = np.isin(pairs.centre, rows)
    if not own.any():
        return torch.zeros((), device=device)
    centre, context, negatives = (part[own] for part in pairs)
    read, place = np.unique(np.concatenate([centre, context, negatives.ravel()]), return_inverse=True)
    tower = data.network.correlation
    assert tower is not None
    vectors = tower(data.field_vectors(read, device))[upload(torch.from_numpy(place.reshape(-1)), device)]
    own_vectors, near, far = vectors.split([len(centre), len(context), negatives.size])
    return skip_gram(own_vectors, near, far.reshape(*negatives.shape, -1)).sum()
