"""A norm of a block with a copy of its weights for each adapter that trains norms."""

from collections.abc import Sequence

from torch import Tensor, nn

from peterrec.encoders.dilated import TimeMajorLayerNorm
from peterrec.tuners.layer import RowNames, TunerLayer
from peterrec.tuners.patch.config import PatchConfig
from peterrec.tuners.patch.layer import MERGE_REFUSED, UNMERGE_REFUSED


class NormLayer(TunerLayer):
    """Wraps a norm; an active adapter that trains norms puts its own weight and bias in place of the frozen ones.

    The copies start as the frozen weights, so that nothing changes at first. Of several active adapters, each adds what
    its copy changes.
    """

    adapter_layer_names = ("peterrec_patch_norm",)

    def __init__(self, base_layer: TimeMajorLayerNorm, adapter_name: str, config: PatchConfig):
        super().__init__(base_layer, adapter_name)
        self.peterrec_patch_norm = nn.ModuleDict()
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: PatchConfig) -> None:  # type: ignore[override]
        """Adds, or starts afresh, the copy of `adapter_name`."""
        frozen = self.base_layer
        assert isinstance(frozen, TimeMajorLayerNorm)
        own = TimeMajorLayerNorm(list(frozen.normalized_shape), eps=frozen.eps)
        if "meta" not in (own.weight.device.type, frozen.weight.device.type):
            own.load_state_dict(frozen.state_dict())
        self.peterrec_patch_norm[adapter_name] = own
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused, since the patches that belong to the same adapter cannot be merged."""
        raise ValueError(MERGE_REFUSED)

    def unmerge(self) -> None:
        """Refused, since nothing can have been merged."""
        raise ValueError(UNMERGE_REFUSED)

    def holds(self, adapter_name: str) -> bool:
        return adapter_name in self.peterrec_patch_norm

    def forward(
        self,
        x: Tensor,
        *args: Tensor | None,
        domain_ids: Tensor | None = None,
        adapter_names: Sequence[str] | RowNames | None = None,
    ) -> Tensor:
        """Normalises the last axis of `(B, L, D)` with the weights of the active adapter, or of each row's own."""
        held = [name for name in self.active_adapters if self.holds(name)]
        if adapter_names is not None or self.disable_adapters or not held:
            return super().forward(x, *args, domain_ids=domain_ids, adapter_names=adapter_names)
        y = self.adapt(held[0], x, x, domain_ids)  # the frozen norm's output is not needed
        if len(held) > 1:
            frozen = self.run_base(x, *args, domain_ids=domain_ids)
            for name in held[1:]:
                y = y + (self.adapt(name, x, frozen, domain_ids) - frozen)
        return y

    def adapt(self, adapter_name: str, x: Tensor, y: Tensor, domain_ids: Tensor | None) -> Tensor:
        own, frozen = self.peterrec_patch_norm[adapter_name], self.base_layer
        assert isinstance(own, TimeMajorLayerNorm)
        assert isinstance(frozen, TimeMajorLayerNorm)
        if own.weight.dtype == frozen.weight.dtype:
            return own(x)  # whatever autocast makes of it, it makes of the frozen norm too
        return own(x.to(own.weight.dtype)).to(x.dtype)
