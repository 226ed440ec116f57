"""The head as the logistic regression on user vectors that stand still, found by Newton's method."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.heads.classification import ClassificationHead, HeadScale
from peterrec.heads.logistic import Logistic


@torch.no_grad()
def fit_head(
    head: ClassificationHead,
    vectors: Tensor,
    labels: NDArray[np.int64],
    *,
    class_weights: NDArray[np.float64] | None = None,
    seed: int,
) -> float | None:
    """Sets `head` to the L2 logistic regression of `labels` `(N,)` on user vectors `(N, D)`; the C that was chosen.

    Linear probing, from which fine-tuning goes on (Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR
    2022). C = 1 / penalty is that of `Logistic`, by cross-validation over the labels, drawn by `seed`; None where
    there is one class only. A class without labels gets the probability of half a user among N.
    """
    assert isinstance(head.norm, HeadScale), "a head of ClassificationHead(..., common_scale=True)"
    inputs = head.norm.fit(vectors.cpu()).numpy()  # doubles, which not every device has
    output = head.output
    regression = Logistic(seed=seed).fit(inputs, labels, num_classes=len(output.weight), class_weights=class_weights)
    weights, intercepts = regression.map()
    known = np.isfinite(intercepts)
    together = np.log(np.exp(intercepts[known] - intercepts[known].max()).sum()) + intercepts[known].max()
    intercepts[~known] = together - np.log(2 * len(labels))
    output.weight.zero_()
    if weights.shape[1]:
        output.weight.copy_(torch.from_numpy(weights))
    output.bias.copy_(torch.from_numpy(intercepts))
    return regression.chosen_C
