"""Probabilities as the logarithms of themselves and of their complements."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class LogProbability(NamedTuple):
    """`log_p` and `log_not_p` `(B,)`, the logarithms of a probability and of its complement.

    Both are kept, since neither can be had from the other once it is near 0: there `log(1 - exp(log_p))` has lost its
    digits, and its gradient with them.
    """

    log_p: Tensor
    log_not_p: Tensor

    @property
    def probability(self) -> Tensor:
        """`(B,)`."""
        return self.log_p.exp()

    @property
    def logit(self) -> Tensor:
        """`(B,)`: orders rows that `probability` rounds to one number."""
        return self.log_p - self.log_not_p


def of_logit(logit: Tensor) -> LogProbability:
    """The probability that a logit `(B,)` stands for, in float32 at least, whatever precision it comes in."""
    full = logit.to(torch.promote_types(logit.dtype, torch.float32))
    return LogProbability(F.logsigmoid(full), F.logsigmoid(-full))
