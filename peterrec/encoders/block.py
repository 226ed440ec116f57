"""What all blocks share."""

from transformers.modeling_layers import GradientCheckpointingLayer

from peterrec.encoders.time_major import DilatedConv


class Block(GradientCheckpointingLayer):
    """What the blocks share: whether they run as one function."""

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
