"""Puts patches into an encoder, and takes them out."""

from dataclasses import replace
from typing import Any

from torch import nn

from peterrec.encoders.dilated import TimeMajorLayerNorm, Unit
from peterrec.tuners.layer import TunerLayer
from peterrec.tuners.model import EncoderTuner
from peterrec.tuners.patch.config import NAME, PatchConfig
from peterrec.tuners.patch.layer import MERGE_REFUSED, UNMERGE_REFUSED, PatchLayer
from peterrec.tuners.patch.norm import NormLayer
from peterrec.tuners.patch.placement import PLACEMENTS, blocks, module_names, unwrapped


class PatchModel(EncoderTuner):
    """The tuner that peft drives for a `PatchConfig`.

    Adapters of the placements `serial_conv`, `serial_block` and `parallel_conv` stand in one model, and in one mixed
    batch; `parallel_unit` wraps what the others wrap parts of, so it shares blocks with its own kind only.
    """

    prefix = f"{NAME}_"
    tuner_layer_cls = TunerLayer  # patches and norms
    config_cls = PatchConfig

    def _prepare_adapter_config(self, peft_config: PatchConfig, model_config: dict[str, Any]) -> PatchConfig:  # type: ignore[override]
        """Fills in which modules the placement means in this encoder's kind of blocks."""
        names = module_names(peft_config.placement, self.model, norms=peft_config.train_norms)
        if peft_config.target_modules is not None:
            if not peft_config.train_norms:
                return peft_config
            assert isinstance(peft_config.target_modules, set)
            norms = names - module_names(peft_config.placement, self.model, norms=False)
            names = peft_config.target_modules | norms
        return replace(peft_config, target_modules=names)  # the caller's own may go on to another kind of encoder

    def check_target(self, target: nn.Module, name: str, config: PatchConfig) -> None:  # type: ignore[override]
        place = PLACEMENTS[config.placement]
        for block in blocks(self.model):
            wanted = place.modules(block) + (block.norms if config.train_norms else ())
            if any(target is unwrapped(block, module) for module in wanted):
                return
        raise ValueError(
            f"With placement {config.placement} a patch goes on {place.goes_on}, but {name} is {type(target).__name__}."
        )

    def wrap(self, target: nn.Module, name: str, adapter_name: str, config: PatchConfig) -> TunerLayer:  # type: ignore[override]
        if isinstance(target, TimeMajorLayerNorm):
            return NormLayer(target, adapter_name, config)
        return PatchLayer(target, adapter_name, config, channels=self._channels(target))

    def _channels(self, target: nn.Module) -> int:
        """The width of a patched module."""
        if isinstance(target, nn.Linear):
            return target.out_features
        if isinstance(target, nn.ReLU):
            # it does not know its width; the unit around it does
            target = next(unit for unit in self.model.modules() if getattr(unit, "activation", None) is target)
        if isinstance(target, Unit):
            target = unwrapped(target, "conv")
        return target.channels  # type: ignore[return-value]  # a layer of a block knows it

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: PatchConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        super()._create_and_replace(peft_config, adapter_name, target, target_name, parent, current_key, parameter_name)
        layer = getattr(parent, target_name)
        assert isinstance(layer, TunerLayer)
        device = next(parent.parameters()).device  # of the base: a unit's own weights come before those of adapters
        layer._move_adapter_to_device_of_base_layer(adapter_name, device=device)
        unit = layer.base_layer
        if isinstance(unit, Unit) and peft_config.train_norms:
            # The unit is wrapped as a whole, and peft's search ends there.
            norm = unit.norm
            super()._create_and_replace(peft_config, adapter_name, norm, "norm", unit, f"{current_key}.base_layer.norm")
            own = unit.norm
            assert isinstance(own, NormLayer)
            own._move_adapter_to_device_of_base_layer(adapter_name, device=device)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Refused before anything else, such as the row of a token, has been merged."""
        raise ValueError(MERGE_REFUSED)

    def unmerge_adapter(self) -> None:
        """Refused, since nothing can have been merged."""
        raise ValueError(UNMERGE_REFUSED)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = True,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            raise ValueError(MERGE_REFUSED)
        for unit in list(self.model.modules()):
            # peft does not look inside what it unloads, and a unit's norm is there
            if isinstance(unit, Unit) and isinstance(unit.norm, NormLayer):
                self._replace_module(unit, "norm", unit.norm.base_layer, unit.norm)
        return super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)
