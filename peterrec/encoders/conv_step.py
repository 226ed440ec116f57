"""One new position through one convolution, or the unit around it, from what it has read before."""

import torch
from torch import Tensor, nn

from peterrec.encoders.bare import is_bare
from peterrec.encoders.dilated import DilatedConv, TimeMajorLinear, Unit, trailing
from peterrec.encoders.input_rings import Ring
from peterrec.encoders.positionwise import opened


class ConvStep:
    """A dilated convolution, wrapped or not, at one new position.

    `reads` says in what form it is given its past inputs, in the words of `BlockStep`: `product` where its weights may
    be read, with or without patches around it; `taps` where its linear map is wrapped; `window` for anything else, a
    unit that is wrapped as a whole included, which then runs on all that it may read.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.reads = "window"
        self.convolution: DilatedConv | None = None
        self.newest: Tensor | None = None  # the weight of the newest tap
        conv, self._wrapper = opened(layer)
        if isinstance(conv, DilatedConv) and is_bare(conv, DilatedConv):
            self.reads, self.convolution = "taps", conv
            if is_bare(conv.linear, TimeMajorLinear, "weight", "bias"):
                self.reads, self.newest = "product", newest_tap(conv)

    def ring(self, *, span: int, width: int) -> Ring:
        """What it remembers: its last `span` inputs."""
        if self.convolution is None:
            return Ring(self.reads, whole=False, taps=span, dilation=1, width=width, conv=None)
        dilation = self.convolution.dilation
        return Ring(
            self.reads, whole=False, taps=span // dilation, dilation=dilation, width=width, conv=self.convolution
        )

    def advance(self, past: Tensor, new: Tensor, domain_ids: Tensor | None) -> Tensor:
        """The output `(B, 1, D_out)` at the new position, of what was read before and the new input `(B, D_in)`."""
        if self.convolution is None:
            return trailing(self.layer, with_newest(past, new), domain_ids=domain_ids, positions=1)
        if self.newest is None:
            y = self.convolution.linear(torch.cat((past, new), dim=1).unsqueeze(1), domain_ids=domain_ids)
        else:
            y = past.addmm_(new, self.newest).unsqueeze(1)
        return y if self._wrapper is None else self._wrapper.finish(new.unsqueeze(1), y, domain_ids)


class UnitStep:
    """A unit of a plain block, wrapped or not, at one new position; `conv` says what it reads."""

    def __init__(self, unit: nn.Module):
        inner, self._wrapper = opened(unit)
        self._unit = inner if isinstance(inner, Unit) and is_bare(inner, Unit) else None
        self.conv = ConvStep(inner if self._unit is None else self._unit.conv)

    def advance(self, past: Tensor, new: Tensor, domain_ids: Tensor | None) -> Tensor:
        """The output `(B, 1, D)` at the new position, of what was read before and the new input `(B, D)`."""
        y = self.conv.advance(past, new, domain_ids)
        if self._unit is not None:
            y = self._unit.activation(self._unit.norm(y, domain_ids=domain_ids))
        return y if self._wrapper is None else self._wrapper.finish(new.unsqueeze(1), y, domain_ids)


def newest_tap(conv: DilatedConv) -> Tensor:
    """The weight of the tap that reads the new input, `(D_in, D_out)`."""
    return conv.linear.weight.detach()[:, -(conv.linear.in_features // conv.kernel_size) :].t().contiguous()


def with_newest(past: Tensor, new: Tensor) -> Tensor:
    """A window `(B, span + 1, D)` of past inputs `(span, B, D)` and the new one `(B, D)`."""
    return torch.cat((past, new.unsqueeze(0))).transpose(0, 1)
