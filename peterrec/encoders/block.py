"""What all blocks share."""

from transformers.modeling_layers import GradientCheckpointingLayer

from peterrec.encoders.time_major import DilatedConv


class Block(GradientCheckpointingLayer):
    """A block of an encoder, from `(B, L, D)` to `(B, L, D)`; it names the modules inside that tuners may wrap.

    maps: whose output a serial patch reads. layers: beside which a parallel patch goes. tail: what ends the last of the
    layers, so that one serial patch a block stands there. units: layers with the norm and ReLU that follow them.
    norms: every norm. Where a block has no such place, the names are empty.
    """

    maps: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()


class DilatedBlock(Block):
    """What the blocks of dilated convolutions share: whether they run as one function."""

    _fused = True

    @property
    def fused(self) -> bool:
        """Whether the block runs as one function where nothing in it is wrapped, and its convolutions as slices."""
        return self._fused

    @fused.setter
    def fused(self, value: bool) -> None:
        self._fused = value
        for module in self.modules():
            if isinstance(module, DilatedConv):
                module.fused = value
