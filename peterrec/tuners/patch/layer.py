"""A dilated convolution with patches behind it."""

import torch
from torch import Tensor, nn

from peterrec.encoders.dilated import DilatedConv, TimeMajorLinear
from peterrec.tuners.layer import TunerLayer
from peterrec.tuners.patch.config import PatchConfig


class PatchLayer(TunerLayer):
    """Wraps a convolution: `y = conv(x)`, then `y + Up(activation(Down(y)))` for each active patch in turn.

    `Up` starts at zero, so that the patched encoder equals the frozen one exactly at step 0.
    """

    adapter_layer_names = ("peterrec_patch_down", "peterrec_patch_up")
    other_param_names = ("activation", "dropout")

    def __init__(self, base_layer: DilatedConv, adapter_name: str, config: PatchConfig):
        super().__init__(base_layer, adapter_name)
        self.channels = base_layer.linear.out_features
        self.peterrec_patch_down = nn.ModuleDict()
        self.peterrec_patch_up = nn.ModuleDict()
        self.activation: dict[str, str] = {}
        self.dropout: dict[str, float] = {}
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: PatchConfig) -> None:  # type: ignore[override]
        """Adds, or starts afresh, the patch `adapter_name`."""
        down = TimeMajorLinear(self.channels, config.bottleneck)
        up = TimeMajorLinear(config.bottleneck, self.channels)
        if up.weight.device.type != "meta":
            nn.init.zeros_(up.weight)
            nn.init.zeros_(up.bias)
        self.peterrec_patch_down[adapter_name] = down
        self.peterrec_patch_up[adapter_name] = up
        self.activation[adapter_name] = config.activation
        self.dropout[adapter_name] = config.dropout
        device = next(self.base_layer.parameters()).device
        self._move_adapter_to_device_of_base_layer(adapter_name, device=device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: a patch is not linear, so no weight of the convolution can take its place."""
        raise ValueError(
            "A patch cannot be merged: its bottleneck is not linear, so no convolution weight equals it. "
            "Keep the adapter, or call unload() to get the frozen encoder back."
        )

    def unmerge(self) -> None:
        """Refused, since nothing can have been merged."""
        raise ValueError("A patch is never merged, so there is nothing to unmerge.")

    def holds(self, adapter_name: str) -> bool:
        return adapter_name in self.peterrec_patch_down

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        down, up = self.peterrec_patch_down[adapter_name], self.peterrec_patch_up[adapter_name]
        assert isinstance(down, TimeMajorLinear)
        inner = down(y.to(down.weight.dtype))
        inner = torch.relu(inner) if self.activation[adapter_name] == "relu" else nn.functional.gelu(inner)
        inner = nn.functional.dropout(inner, self.dropout[adapter_name], self.training)
        return y + up(inner).to(y.dtype)
