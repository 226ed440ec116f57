"""Stock layers, and the dilated convolution, on batch-first `(B, L, D)` tensors whose memory is time-major `(L, B, D)`.

Subclasses of the stock layers let every `peft` method recognise them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare, traces
from peterrec.encoders.shifted_products import Taps, shifted_products, taps_of


class TimeMajorEmbedding(nn.Embedding):
    """Looks up rows `(B, L)` and returns `(B, L, D)` as a view of `(L, B, D)` memory."""

    def forward(self, input: Tensor) -> Tensor:
        if self.sparse:
            return _sparse_rows(input.transpose(0, 1), self.weight).transpose(0, 1)  # type: ignore[call-arg]
        return super().forward(input.transpose(0, 1)).transpose(0, 1)


@torch.compiler.disable  # inductor knows no sparse gradients
def _sparse_rows(rows: Tensor, table: Tensor) -> Tensor:
    # the gradient at PAD is zero already; torch would wait for a device to count what to leave out
    return F.embedding(rows, table, sparse=True)


class TimeMajorLinear(nn.Linear):
    """Applies a linear map to the last axis of `(B, L, D)` without leaving time-major memory."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return F.linear(input.transpose(0, 1), self.weight, self.bias).transpose(0, 1)


class TimeMajorLayerNorm(nn.LayerNorm):
    """Normalises the last axis of `(B, L, D)` without leaving time-major memory."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return super().forward(input.transpose(0, 1)).transpose(0, 1)


class DilatedConv(nn.Module):
    """A dilated convolution over positions: one linear map `(taps · D_in → D_out)` of what the taps read.

    With `causal`, position t reads t, t − d, …, t − (kernel − 1) · d; otherwise the taps are centred on t.
    Positions outside the sequence read zero. The weight of tap j stands in columns `[j · D_in, (j + 1) · D_in)`
    of `linear.weight`, oldest tap first. A plain `nn.Linear` inside, and not `nn.Conv1d`, because every `peft`
    method is right on it (LoRA on a dilated `nn.Conv1d` is not). The taps are gathered only for a wrapped `linear`,
    or where `fused` is off: what gathers them may be differentiated any number of times.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, dilation: int, causal: bool):
        super().__init__()
        if not causal and kernel_size % 2 == 0:
            raise ValueError(f"A two-sided convolution needs an odd kernel_size, got {kernel_size}.")
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.causal = causal
        self.channels = out_channels
        self.fused = True
        self.linear = TimeMajorLinear(kernel_size * in_channels, out_channels)

    def taps(self, x: Tensor, positions: int | None = None) -> Tensor:
        """Gathers the taps of `(B, L, D)` into `(B, L, kernel_size · D)`, oldest first; or of the last `positions`."""
        span = (self.kernel_size - 1) * self.dilation
        before = span if self.causal else span // 2
        length = x.shape[1]
        wanted = length if positions is None else min(positions, length)
        if wanted < length:
            assert self.causal, "a two-sided convolution is not trimmed"
            x = x[:, -(wanted + span) :]
            before = wanted + span - x.shape[1]
        padded = F.pad(x.transpose(0, 1), (0, 0, 0, 0, before, 0 if self.causal else span - before))
        shifted = [padded[j * self.dilation : j * self.dilation + wanted] for j in range(self.kernel_size)]
        return torch.cat(shifted, dim=-1).transpose(0, 1)

    def forward(self, x: Tensor, domain_ids: Tensor | None = None, positions: int | None = None) -> Tensor:
        """Maps `(B, L, D_in)` to `(B, L, D_out)`, or to the last `positions` of it."""
        if not self.fused or traces() or not is_bare(self.linear, TimeMajorLinear, "weight", "bias"):
            return self.linear(self.taps(x, positions), domain_ids=domain_ids)
        if positions is not None:
            x = x[:, -(positions + (self.kernel_size - 1) * self.dilation) :]
        shifts = self.shifts(x.shape[1], positions)
        return shifted_products(x.transpose(0, 1), self.linear.weight, self.linear.bias, shifts).transpose(0, 1)

    def shifts(self, length: int, positions: int | None = None) -> Taps:
        """What the taps of a sequence of `length` positions read, for all outputs or the last `positions`."""
        assert self.causal or positions is None or positions >= length, "a two-sided convolution is not trimmed"
        return taps_of(
            kernel_size=self.kernel_size,
            dilation=self.dilation,
            causal=self.causal,
            length=length,
            positions=positions,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, causal={self.causal}"
