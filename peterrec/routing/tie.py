"""A tie that keeps modules of one shape alike."""

import torch
from torch import Tensor, nn


def squared_distance(modules: nn.ModuleList) -> Tensor:
    """Σ over pairs k < l of modules of ‖θ_k − θ_l‖², a number `()`: soft sharing (Duong et al., ACL 2015).

    0 for a single module.
    """
    total = next(modules.parameters()).new_zeros(())
    for same in zip(*(module.parameters() for module in modules), strict=True):
        stacked = torch.stack(same)
        # the distances of all pairs are those from the mean, times the number of modules
        total = total + len(same) * (stacked - stacked.mean(0)).square().sum()
    return total
