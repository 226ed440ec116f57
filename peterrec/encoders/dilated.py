"""Units and blocks of dilated convolutions, on batch-first `(B, L, D)` tensors in time-major `(L, B, D)` memory.

The shift of a dilated tap is then a contiguous slice for all users at once. Callers, tuners among them, see
batch-first shapes only.

`domain_ids` `(B,)` goes from the encoder down to each layer as an argument of its own. The layers here make no use of
it: a tuner that wraps one does (hooks or contexts would break under activation checkpointing).

`positions` asks for the outputs at the last so many positions alone, which is all that a readout of the last one
needs: a causal convolution then leaves out the positions that nobody above it reads.

A block in which no tuner wraps anything runs as one function with a gradient of its own (`fused_plain`,
`fused_bottleneck`), which computes what the modules here say; `block.fused = False` runs the modules instead, and
makes its convolutions gather their taps, so that the block is differentiable any number of times.
"""

from torch import Tensor, nn

from peterrec.encoders.bare import is_bare, traces
from peterrec.encoders.block import DilatedBlock
from peterrec.encoders.dropout import Dropout
from peterrec.encoders.fused_bottleneck import BottleneckPlan, BottleneckWeights, fused_bottleneck_block
from peterrec.encoders.fused_plain import PlainPlan, PlainWeights, fused_plain_block
from peterrec.encoders.positionwise import Positionwise
from peterrec.encoders.time_major import DilatedConv, TimeMajorLayerNorm, TimeMajorLinear
from peterrec.encoders.time_major import TimeMajorEmbedding as TimeMajorEmbedding

BOTH = ("weight", "bias")


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


def trailing(
    layer: nn.Module, x: Tensor, *args: Tensor | None, domain_ids: Tensor | None, positions: int | None
) -> Tensor:
    """A layer's output, or the last `positions` of it.

    A layer of this file leaves the others out of its work, and so does a wrapper that treats each position by itself.
    Any other wrapper (it may mix them) computes them all, and they are cut off afterwards.
    """
    if positions is None or positions >= x.shape[1]:
        return layer(x, *args, domain_ids=domain_ids)
    if isinstance(layer, DilatedConv | Unit | PreActivationUnit | PlainBlock | BottleneckBlock | Positionwise):
        return layer(x, *args, domain_ids=domain_ids, positions=positions)
    return layer(x, *args, domain_ids=domain_ids)[:, -positions:]


def _read(
    x: Tensor, mask: Tensor | None, positions: int | None, spans: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """The positions of `x` and `mask` that the last `positions` outputs of convolutions with these spans read."""
    if positions is None or positions + sum(spans) >= x.shape[1]:
        return x, mask
    reach = positions + sum(spans)
    return x[:, -reach:], None if mask is None else mask[:, -reach:]


def _cleared(x: Tensor, mask: Tensor | None) -> Tensor:
    """`x` `(B, n, D)`, zero at padding; of a longer `mask` the last n positions count."""
    return x if mask is None else x * mask[:, -x.shape[1] :]


class PlainBlock(DilatedBlock):
    """`x + ReLU(LN2(conv_2d(ReLU(LN1(conv_d(x))))))` (NextItNet, WSDM 2019, Fig. 3b)."""

    convolutions = 2  # taken from `dilations`
    maps = layers = ("unit1.conv", "unit2.conv")
    tail, units = ("unit2.activation",), ("unit1", "unit2")  # a leaf: patches there stand beside those on convolutions
    norms = ("unit1.norm", "unit2.norm")

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
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, domain_ids: Tensor | None = None, positions: int | None = None
    ) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`, or to the last `positions` of it.

        `mask` `(B, L, 1)` is 0 at padding, where `x` must be zero and the output then is; without one nothing is
        padding, or no valid position reads it.
        """
        x, mask = _read(x, mask, positions, self.spans)
        if self.fused and not traces():
            weights = self._bare_weights()
            if weights is not None:
                return self._run_fused(x, mask, positions, weights)
        read = None if positions is None else positions + self.spans[1]
        inner = _cleared(trailing(self.unit1, x, domain_ids=domain_ids, positions=read), mask)
        inner = trailing(self.unit2, inner, domain_ids=domain_ids, positions=positions)
        return _cleared(x[:, -inner.shape[1] :] + self.dropout(inner), mask)

    def _bare_weights(self) -> PlainWeights | None:
        """The weights of the block, or None where something in it is wrapped."""
        found: list[Tensor] = []
        for unit in (self.unit1, self.unit2):
            if not (
                is_bare(unit, Unit)
                and is_bare(unit.conv, DilatedConv)
                and is_bare(unit.conv.linear, TimeMajorLinear, *BOTH)
                and is_bare(unit.norm, TimeMajorLayerNorm, *BOTH)
                and is_bare(unit.activation, nn.ReLU)
            ):
                return None
            found += [unit.conv.linear.weight, unit.conv.linear.bias, unit.norm.weight, unit.norm.bias]
        return PlainWeights(*found) if is_bare(self.dropout, Dropout) else None

    def _run_fused(self, x: Tensor, mask: Tensor | None, positions: int | None, weights: PlainWeights) -> Tensor:
        first = self.unit1.conv.shifts(x.shape[1], None if positions is None else positions + self.spans[1])
        plan = PlainPlan(
            taps1=first,
            taps2=self.unit2.conv.shifts(first.wanted, positions),
            eps1=self.unit1.norm.eps,
            eps2=self.unit2.norm.eps,
            mask=mask,
            p=self.dropout.p if self.dropout.training else 0.0,
        )
        return fused_plain_block(x.transpose(0, 1), weights, plan).transpose(0, 1)


class BottleneckBlock(DilatedBlock):
    """Pre-activated 1×1 (D → D/2), dilated convolution, 1×1 (D/2 → D), plus the input (NextItNet, Fig. 3a)."""

    convolutions = 1  # taken from `dilations`
    maps = layers = ("unit2.conv",)
    tail = ("unit3.linear",)
    norms = ("unit1.norm", "unit2.norm", "unit3.norm")

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
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, domain_ids: Tensor | None = None, positions: int | None = None
    ) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`, or to the last `positions` of it; `mask` as in a plain block."""
        x, mask = _read(x, mask, positions, self.spans)
        if self.fused and not traces():
            weights = self._bare_weights()
            if weights is not None:
                return self._run_fused(x, mask, positions, weights)
        inner = trailing(
            self.unit2, self.unit1(x, domain_ids=domain_ids), mask, domain_ids=domain_ids, positions=positions
        )
        return _cleared(x[:, -inner.shape[1] :] + self.dropout(self.unit3(inner, domain_ids=domain_ids)), mask)

    def _bare_weights(self) -> BottleneckWeights | None:
        """The weights of the block, or None where something in it is wrapped."""
        found: list[Tensor] = []
        for unit in (self.unit1, self.unit2, self.unit3):
            if not (
                is_bare(unit, PreActivationUnit)
                and is_bare(unit.norm, TimeMajorLayerNorm, *BOTH)
                and is_bare(unit.activation, nn.ReLU)
                and (unit is not self.unit2 or is_bare(unit.conv, DilatedConv))
            ):
                return None
            linear = unit.conv.linear if unit is self.unit2 else unit.linear
            if not is_bare(linear, TimeMajorLinear, *BOTH):
                return None
            found += [unit.norm.weight, unit.norm.bias, linear.weight, linear.bias]
        return BottleneckWeights(*found) if is_bare(self.dropout, Dropout) else None

    def _run_fused(self, x: Tensor, mask: Tensor | None, positions: int | None, weights: BottleneckWeights) -> Tensor:
        plan = BottleneckPlan(
            taps=self.unit2.conv.shifts(x.shape[1], positions),
            eps=(self.unit1.norm.eps, self.unit2.norm.eps, self.unit3.norm.eps),
            mask=mask,
            p=self.dropout.p if self.dropout.training else 0.0,
        )
        return fused_bottleneck_block(x.transpose(0, 1), weights, plan).transpose(0, 1)


BLOCKS: dict[str, type[PlainBlock] | type[BottleneckBlock]] = {
    "plain": PlainBlock,
    "bottleneck": BottleneckBlock,
}
