"""Layers on batch-first `(B, L, D)` tensors whose memory is time-major `(L, B, D)`.

The shift of a dilated tap is then a contiguous slice for all users at once. Callers, tuners among them, see
batch-first shapes only; subclasses of the stock layers let every `peft` method recognise them.

`domain_ids` `(B,)` goes from the encoder down to each layer as an argument of its own. The layers here make no use of
it: a tuner that wraps one does (hooks or contexts would break under activation checkpointing).

`positions` asks for the outputs at the last so many positions alone, which is all that a readout of the last one
needs: a causal convolution then leaves out the positions that nobody above it reads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer


class TimeMajorEmbedding(nn.Embedding):
    """Looks up rows `(B, L)` and returns `(B, L, D)` as a view of `(L, B, D)` memory."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.transpose(0, 1)).transpose(0, 1)


class TimeMajorLinear(nn.Linear):
    """Applies a linear map to the last axis of `(B, L, D)` without leaving time-major memory."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return F.linear(input.transpose(0, 1), self.weight, self.bias).transpose(0, 1)


class TimeMajorLayerNorm(nn.LayerNorm):
    """Normalises the last axis of `(B, L, D)` without leaving time-major memory."""

    def forward(self, input: Tensor, domain_ids: Tensor | None = None) -> Tensor:
        return super().forward(input.transpose(0, 1)).transpose(0, 1)


class DilatedConv(nn.Module):
    """A dilated convolution over positions: gathers its taps, then one linear map `(taps · D_in → D_out)`.

    With `causal`, position t reads t, t − d, …, t − (kernel − 1) · d; otherwise the taps are centred on t.
    Positions outside the sequence read zero. The weight of tap j stands in columns `[j · D_in, (j + 1) · D_in)`
    of `linear.weight`, oldest tap first. A plain `nn.Linear` inside, and not `nn.Conv1d`, because every `peft`
    method is right on it (LoRA on a dilated `nn.Conv1d` is not).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, dilation: int, causal: bool):
        super().__init__()
        if not causal and kernel_size % 2 == 0:
            raise ValueError(f"A two-sided convolution needs an odd kernel_size, got {kernel_size}.")
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.causal = causal
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
        return self.linear(self.taps(x, positions), domain_ids=domain_ids)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, causal={self.causal}"


class Unit(nn.Module):
    """Dilated convolution, norm, ReLU: half of a plain block."""

    def __init__(self, channels: int, *, kernel_size: int, dilation: int, causal: bool, eps: float):
        super().__init__()
        self.conv = DilatedConv(channels, channels, kernel_size=kernel_size, dilation=dilation, causal=causal)
        self.norm = TimeMajorLayerNorm(channels, eps=eps)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, domain_ids: Tensor | None = None, positions: int | None = None) -> Tensor:
        """Maps `(B, L, D)`, zero where there is padding, to `(B, L, D)`, or to the last `positions` of it."""
        convolved = trailing(self.conv, x, domain_ids=domain_ids, positions=positions)
        return self.activation(self.norm(convolved, domain_ids=domain_ids))


class PreActivationUnit(nn.Module):
    """Norm, ReLU, then a point-wise map or a dilated convolution: a third of a bottleneck block."""

    def __init__(self, channels: int, layer: TimeMajorLinear | DilatedConv, *, eps: float):
        super().__init__()
        self.norm = TimeMajorLayerNorm(channels, eps=eps)
        self.activation = nn.ReLU()
        if isinstance(layer, DilatedConv):
            self.conv = layer
        else:
            self.linear = layer

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        domain_ids: Tensor | None = None,
        positions: int | None = None,
    ) -> Tensor:
        """Maps `(B, L, D_in)` to `(B, L, D_out)`; `mask` `(B, L, 1)` clears padding before a convolution.

        `positions` is for the unit of the convolution: the others map each position by itself.
        """
        x = self.activation(self.norm(x, domain_ids=domain_ids))
        if hasattr(self, "conv"):
            x = x if mask is None else x * mask
            return trailing(self.conv, x, domain_ids=domain_ids, positions=positions)
        return self.linear(x, domain_ids=domain_ids)


def trailing(layer: nn.Module, x: Tensor, *args: Tensor, domain_ids: Tensor | None, positions: int | None) -> Tensor:
    """A layer's output, or the last `positions` of it.

    A layer of this file leaves the others out of its work. A wrapper around one (a tuner, which may add what it makes
    of the input to the output) computes them all, and they are cut off afterwards.
    """
    if positions is None or positions >= x.shape[1]:
        return layer(x, *args, domain_ids=domain_ids)
    if isinstance(layer, DilatedConv | Unit | PreActivationUnit | PlainBlock | BottleneckBlock):
        return layer(x, *args, domain_ids=domain_ids, positions=positions)
    return layer(x, *args, domain_ids=domain_ids)[:, -positions:]


class PlainBlock(GradientCheckpointingLayer):
    """`x + ReLU(LN2(conv_2d(ReLU(LN1(conv_d(x))))))` (NextItNet, WSDM 2019, Fig. 3b)."""

    convolutions = 2  # taken from `dilations`

    def __init__(
        self,
        channels: int,
        dilations: tuple[int, ...],
        *,
        kernel_size: int,
        causal: bool,
        eps: float,
        dropout: float,
    ):
        super().__init__()
        first, second = dilations
        self.spans = tuple((kernel_size - 1) * dilation for dilation in dilations)  # positions read beyond their own
        self.unit1 = Unit(channels, kernel_size=kernel_size, dilation=first, causal=causal, eps=eps)
        self.unit2 = Unit(channels, kernel_size=kernel_size, dilation=second, causal=causal, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, domain_ids: Tensor | None = None, positions: int | None = None
    ) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`, or to the last `positions` of it; `mask` `(B, L, 1)` is 0 at padding."""
        read = None if positions is None else positions + self.spans[1]
        inner = trailing(self.unit1, x * mask, domain_ids=domain_ids, positions=read)
        inner = inner * mask[:, -inner.shape[1] :]
        inner = trailing(self.unit2, inner, domain_ids=domain_ids, positions=positions)
        return x[:, -inner.shape[1] :] + self.dropout(inner)


class BottleneckBlock(GradientCheckpointingLayer):
    """Pre-activated 1×1 (D → D/2), dilated convolution, 1×1 (D/2 → D), plus the input (NextItNet, Fig. 3a)."""

    convolutions = 1  # taken from `dilations`

    def __init__(
        self,
        channels: int,
        dilations: tuple[int, ...],
        *,
        kernel_size: int,
        causal: bool,
        eps: float,
        dropout: float,
    ):
        super().__init__()
        (dilation,) = dilations
        self.spans = ((kernel_size - 1) * dilation,)  # positions read beyond their own
        inner = channels // 2
        convolution = DilatedConv(inner, inner, kernel_size=kernel_size, dilation=dilation, causal=causal)
        self.unit1 = PreActivationUnit(channels, TimeMajorLinear(channels, inner), eps=eps)
        self.unit2 = PreActivationUnit(inner, convolution, eps=eps)
        self.unit3 = PreActivationUnit(inner, TimeMajorLinear(inner, channels), eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor, domain_ids: Tensor | None = None, positions: int | None = None
    ) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`, or to the last `positions` of it; `mask` `(B, L, 1)` is 0 at padding."""
        inner = trailing(
            self.unit2, self.unit1(x, domain_ids=domain_ids), mask, domain_ids=domain_ids, positions=positions
        )
        return x[:, -inner.shape[1] :] + self.dropout(self.unit3(inner, domain_ids=domain_ids))


BLOCKS: dict[str, type[PlainBlock] | type[BottleneckBlock]] = {
    "plain": PlainBlock,
    "bottleneck": BottleneckBlock,
}
