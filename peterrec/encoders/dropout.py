"""Dropout that draws 16 random bits an element on the CPU, where the stock one costs more than a convolution."""

import numpy as np
import torch
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare, traces

LEVELS = 2**16


def kept_levels(p: float) -> int:
    """How many of the 65,536 values of a 16-bit word keep an element; the true probability is this over 65,536.

    It differs from 1 − p by 2⁻¹⁷ at most. Outputs are scaled by the true one, so that expectations are exact.
    """
    return round((1.0 - p) * LEVELS)


def draws_words(x: Tensor, p: float) -> bool:
    """Whether dropout on a tensor like this takes the quick draw."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and kept_levels(p) > 0


def random_words(count: int) -> Tensor:
    """Independent uniform int16 `(count,)` on the CPU, seeded by one draw from torch's generator."""
    seed = int(torch.randint(2**62, ()))
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, size=-(-count // 4), dtype=np.uint64)
    return torch.from_numpy(words.view(np.int16))[:count]


def quick_scale(p: float) -> float:
    """What the elements that the quick draw keeps are multiplied by."""
    return LEVELS / kept_levels(p)


def drop_quickly_(x: Tensor, p: float) -> Tensor:
    """Zeroes a share p of the elements of contiguous `x` at random, in place and without scaling."""
    return drop_(x, random_words(x.numel()), kept=kept_levels(p))


def drop_(x: Tensor, words: Tensor, *, kept: int) -> Tensor:
    """Zeroes the elements of contiguous `x` whose word in `words` (one each) is not among the `kept` highest values.

    In place and without scaling; float32 and float64.
    """
    flat = x.view(-1)
    # the vectorised kernel that selects by a comparison; those that go through booleans are five times slower
    lowest = LEVELS // 2 - 1 - kept
    torch.ops.aten.threshold_backward.grad_input(flat, words.to(x.dtype), lowest, grad_input=flat)
    return x


class Dropout(nn.Dropout):
    """`nn.Dropout` with the quick draw for float32 and float64 on the CPU; elsewhere, and compiled, the stock one."""

    def forward(self, input: Tensor) -> Tensor:
        """Zeroes a share p of the elements of a dense tensor of any shape and scales the others."""
        return _drop_quickly(input, self.p) if _takes_quick_draw(self, input) else super().forward(input)


def drop_out(x: Tensor, dropout: nn.Dropout) -> Tensor:
    """What a stock dropout does, drawn quickly where nothing is hung on it."""
    quick = is_bare(dropout, nn.Dropout) and _takes_quick_draw(dropout, x)
    return _drop_quickly(x, dropout.p) if quick else dropout(x)


def _takes_quick_draw(dropout: nn.Dropout, x: Tensor) -> bool:
    return dropout.training and dropout.p > 0.0 and not dropout.inplace and not traces() and draws_words(x, dropout.p)


def _drop_quickly(x: Tensor, p: float) -> Tensor:
    factor = torch.full_like(x, quick_scale(p), requires_grad=False)
    # drawn in the order of memory, which `full_like` keeps, so that a time-major tensor stays one
    drop_quickly_(factor.as_strided((factor.numel(),), (1,)), p)
    return x * factor
