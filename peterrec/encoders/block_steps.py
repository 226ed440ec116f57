"""One new position through one block, from what its convolutions have read before.

A block in which nothing is wrapped is computed on its weights. Where a tuner or a hook is inside, the modules
themselves run, each convolution as `ConvStep` does. A block that is wrapped as a whole, or of a kind not known here,
runs on the window of its own.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.conv_step import ConvStep, UnitStep, newest_tap, with_newest
from peterrec.encoders.dilated import (
    BottleneckBlock,
    DilatedConv,
    PlainBlock,
    PreActivationUnit,
    TimeMajorLayerNorm,
    TimeMajorLinear,
    Unit,
)
from peterrec.encoders.dropout import Dropout
from peterrec.encoders.input_rings import Ring

Keep = Callable[[Tensor], None]
BARE = (
    *(PlainBlock, BottleneckBlock, Unit, PreActivationUnit, DilatedConv),
    *(TimeMajorLinear, TimeMajorLayerNorm, nn.ReLU, Dropout),
)


class BlockStep(Protocol):
    """What `Increment` asks of a block.

    `rings` says what it remembers: the past inputs of each convolution, or, `whole`, its own. The `past` that it is
    given has for each what is read, in the form of `Ring.reads`: `product`, that of the past taps `(B, D_out)`, which
    the step may write into; `taps`, `(B, taps · D_in)`; `window`, all that may be read `(span, B, D_in)`; oldest first.
    """

    rings: tuple[Ring, ...]
    whole: bool

    def encode(self, hidden: Tensor, mask: Tensor, domain_ids: Tensor | None, keep: Keep) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`; `keep` gets the inputs of each convolution in turn, zero where `mask` is."""
        ...

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        """Maps `(B, D)` to `(B, D)`; appends the new input of each convolution to `inputs`."""
        ...


class PlainStep:
    """A plain block by its own modules, wrapped or not."""

    whole = False

    def __init__(self, block: PlainBlock, channels: int):
        self.units = (block.unit1, block.unit2)
        self.steps = [UnitStep(unit) for unit in self.units]
        self.rings = tuple(
            step.conv.ring(span=span, width=channels) for step, span in zip(self.steps, block.spans, strict=True)
        )

    def encode(self, hidden: Tensor, mask: Tensor, domain_ids: Tensor | None, keep: Keep) -> Tensor:
        inner = hidden
        for unit in self.units:
            inner = inner * mask
            keep(inner)
            inner = unit(inner, domain_ids=domain_ids)
        return hidden + inner

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        inner = hidden
        for step, own in zip(self.steps, past, strict=True):
            inputs.append(inner)
            inner = step.advance(own, inner, domain_ids).squeeze(1)
        return hidden + inner


class BottleneckStep:
    """A bottleneck block by its own modules, wrapped or not; the convolution's input is what is remembered."""

    whole = False

    def __init__(self, block: BottleneckBlock, channels: int):
        self.block = block
        self.step = ConvStep(block.unit2.conv)
        self.rings = (self.step.ring(span=block.spans[0], width=channels // 2),)

    def encode(self, hidden: Tensor, mask: Tensor, domain_ids: Tensor | None, keep: Keep) -> Tensor:
        inner = self._before(hidden, domain_ids) * mask
        keep(inner)
        convolved = self.block.unit2.conv(inner, domain_ids=domain_ids)
        return hidden + self.block.unit3(convolved, domain_ids=domain_ids)

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        inner = self._before(hidden.unsqueeze(1), domain_ids).squeeze(1)
        inputs.append(inner)
        convolved = self.step.advance(past[0], inner, domain_ids)
        return hidden + self.block.unit3(convolved, domain_ids=domain_ids).squeeze(1)

    def _before(self, hidden: Tensor, domain_ids: Tensor | None) -> Tensor:
        unit = self.block.unit2
        inner = self.block.unit1(hidden, domain_ids=domain_ids)
        return unit.activation(unit.norm(inner, domain_ids=domain_ids))


class BarePlainStep(PlainStep):
    """A plain block in which nothing is wrapped, on its weights."""

    def __init__(self, block: PlainBlock, channels: int):
        super().__init__(block, channels)
        self.newest = [newest_tap(unit.conv) for unit in self.units]
        self.norms = [_norm(unit.norm) for unit in self.units]

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        inputs.append(hidden)
        inner = torch.layer_norm(past[0].addmm_(hidden, self.newest[0]), *self.norms[0]).relu_()
        inputs.append(inner)
        return torch.layer_norm(past[1].addmm_(inner, self.newest[1]), *self.norms[1]).relu_().add_(hidden)


class BareBottleneckStep(BottleneckStep):
    """A bottleneck block in which nothing is wrapped, on its weights."""

    def __init__(self, block: BottleneckBlock, channels: int):
        super().__init__(block, channels)
        self.newest = newest_tap(block.unit2.conv)
        self.norms = [_norm(unit.norm) for unit in (block.unit1, block.unit2, block.unit3)]
        self.narrow, self.widen = block.unit1.linear, block.unit3.linear

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        inner = torch.layer_norm(hidden, *self.norms[0]).relu_()
        inner = torch.addmm(self.narrow.bias, inner, self.narrow.weight.t())
        inner = torch.layer_norm(inner, *self.norms[1]).relu_()
        inputs.append(inner)
        inner = torch.layer_norm(past[0].addmm_(inner, self.newest), *self.norms[2]).relu_()
        return torch.addmm(self.widen.bias, inner, self.widen.weight.t()).add_(hidden)


class WholeBlockStep:
    """A block that is wrapped as a whole, or of any other kind: it reads the window of its own past inputs.

    Its `past` is that window `(span, B, D)` and which of its positions, the new one included, are valid
    `(B, span + 1)`.
    """

    whole = True

    def __init__(self, encoder: UserEncoder, number: int):
        self.encoder = encoder
        self.number = number
        span = encoder.spans[number]
        assert span is not None, "only encoders whose blocks read so far back come here"
        self.rings = (Ring("window", whole=True, taps=span, dilation=1, width=encoder.config.hidden_size, conv=None),)

    def encode(self, hidden: Tensor, mask: Tensor, domain_ids: Tensor | None, keep: Keep) -> Tensor:
        keep(hidden * mask)
        return self._run(hidden, mask.squeeze(2) != 0, domain_ids)

    def advance(self, hidden: Tensor, past: list[Tensor], domain_ids: Tensor | None, inputs: list[Tensor]) -> Tensor:
        window, valid = past
        inputs.append(hidden)
        return self._run(with_newest(window, hidden), valid, domain_ids, positions=1).squeeze(1)

    def _run(self, hidden: Tensor, valid: Tensor, domain_ids: Tensor | None, positions: int | None = None) -> Tensor:
        first, stop = self.number, self.number + 1
        return self.encoder.run_blocks(
            hidden, valid, first=first, stop=stop, positions=positions, domain_ids=domain_ids
        )


def step_of(encoder: UserEncoder, number: int) -> BlockStep:
    """The quickest step that computes what block `number` computes as it now is, with whatever is wrapped in it."""
    block, channels = encoder.blocks[number], encoder.config.hidden_size
    if isinstance(block, PlainBlock) and is_bare(block, PlainBlock) and _drops_nothing(block.dropout):
        return (BarePlainStep if _nothing_wrapped(block) else PlainStep)(block, channels)
    if (
        isinstance(block, BottleneckBlock)
        and is_bare(block, BottleneckBlock)
        and is_bare(block.unit2, PreActivationUnit)
        and _drops_nothing(block.dropout)
    ):
        return (BareBottleneckStep if _nothing_wrapped(block) else BottleneckStep)(block, channels)
    return WholeBlockStep(encoder, number)


def _drops_nothing(dropout: nn.Module) -> bool:
    """Whether this does nothing outside of training, so that it need not be called."""
    return is_bare(dropout, Dropout) or is_bare(dropout, nn.Dropout) or is_bare(dropout, nn.Identity)


def _nothing_wrapped(block: nn.Module) -> bool:
    return all(any(is_bare(module, kind) for kind in BARE) for module in block.modules())


def _norm(norm: nn.LayerNorm) -> tuple[tuple[int, ...], Tensor | None, Tensor | None, float]:
    """What `torch.layer_norm` takes behind its input."""
    return norm.normalized_shape, norm.weight, norm.bias, norm.eps
