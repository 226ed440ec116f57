"""A module of a block with patches behind it or beside it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.encoders.dilated import TimeMajorLinear, trailing
from peterrec.encoders.positionwise import Positionwise
from peterrec.tuners.layer import RowNames, TunerLayer
from peterrec.tuners.patch.config import PatchConfig
from peterrec.tuners.patch.placement import PLACEMENTS

MERGE_REFUSED = (
    "A patch cannot be merged: its bottleneck is not linear, so no weight of the encoder equals it. "
    "Keep the adapter, or call unload() to get the frozen encoder back."
)
UNMERGE_REFUSED = "A patch is never merged, so there is nothing to unmerge."


class PatchLayer(TunerLayer, Positionwise):
    """Wraps a module of width D, `y = module(x)`, and adds each active patch in turn.

    A serial patch maps y to `y + P(y)`, a parallel one to `y + P(x)`, or with its shortcut `y + x + P(x)`, where
    `P(x) = Up(activation(Down(x)))`. `Up` starts at zero. A patch maps each position by itself, so where the last few
    are asked for, the others are left out of the module's work and of the patches'.
    """

    adapter_layer_names = ("peterrec_patch_down", "peterrec_patch_up")
    other_param_names = ("placement", "shortcut", "activation", "dropout")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: PatchConfig, *, channels: int):
        super().__init__(base_layer, adapter_name)
        self.channels = channels
        self.peterrec_patch_down = nn.ModuleDict()
        self.peterrec_patch_up = nn.ModuleDict()
        self.placement: dict[str, str] = {}
        self.shortcut: dict[str, bool] = {}
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
        self.placement[adapter_name] = config.placement
        self.shortcut[adapter_name] = config.shortcut
        self.activation[adapter_name] = config.activation
        self.dropout[adapter_name] = config.dropout
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: a patch is not linear, so no weight can take its place."""
        raise ValueError(MERGE_REFUSED)

    def unmerge(self) -> None:
        """Refused, since nothing can have been merged."""
        raise ValueError(UNMERGE_REFUSED)

    def holds(self, adapter_name: str) -> bool:
        return adapter_name in self.peterrec_patch_down

    def forward(
        self,
        x: Tensor,
        *args: Tensor | None,
        domain_ids: Tensor | None = None,
        positions: int | None = None,
        adapter_names: Sequence[str] | RowNames | None = None,
    ) -> Tensor:
        """Maps `(B, L, D)` to `(B, L, D)`, or to the last `positions` of it.

        Raises ValueError where `adapter_names` does not hold one name a row.
        """
        if positions is None or positions >= x.shape[1]:
            return super().forward(x, *args, domain_ids=domain_ids, adapter_names=adapter_names)
        y = trailing(self.base_layer, x, *args, domain_ids=domain_ids, positions=positions)
        return self.run_adapters(x[:, -positions:], y, domain_ids, adapter_names)

    def finish(self, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        return self.run_adapters(x, y, domain_ids, None)

    def run_base(self, x: Tensor, *args: Tensor | None, domain_ids: Tensor | None) -> Tensor:
        if isinstance(self.base_layer, nn.ReLU):  # the one patched module that knows of no domains
            return self.base_layer(x)
        return super().run_base(x, *args, domain_ids=domain_ids)

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        down, up = self.peterrec_patch_down[adapter_name], self.peterrec_patch_up[adapter_name]
        assert isinstance(down, TimeMajorLinear)
        source = x if PLACEMENTS[self.placement[adapter_name]].parallel else y
        inner = down(source.to(down.weight.dtype))
        inner = torch.relu(inner) if self.activation[adapter_name] == "relu" else nn.functional.gelu(inner)
        inner = nn.functional.dropout(inner, self.dropout[adapter_name], self.training)
        if self.shortcut[adapter_name]:
            y = y + x
        return y + up(inner).to(y.dtype)
