"""Wrappers that treat each position by itself, so that positions may be left out inside them."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from peterrec.encoders.bare import is_bare


class Positionwise(ABC):
    """A module around `base_layer` whose output at a position is made of that module's output and input there alone.

    Its forward takes `positions`, as the layers of `dilated` do. Tuner layers of this kind say so by this class.
    """

    base_layer: nn.Module

    @abstractmethod
    def finish(self, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        """The output `(B, n, D)` at some positions, from the wrapped module's input and output there."""


def opened(layer: nn.Module) -> tuple[nn.Module, Positionwise | None]:
    """A layer without its wrapper, and that wrapper if it is of this kind and carries no hooks; else the layer."""
    if isinstance(layer, Positionwise) and is_bare(layer, type(layer)):
        return layer.base_layer, layer
    return layer, None
