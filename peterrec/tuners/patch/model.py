"""Puts patches into an encoder, and takes them out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from peterrec.encoders.dilated import DilatedConv
from peterrec.tuners.patch.config import NAME, PatchConfig
from peterrec.tuners.patch.layer import PatchLayer


class PatchModel(BaseTuner):
    """The tuner that peft drives for a `PatchConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = PatchLayer

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
        if isinstance(target, PatchLayer):
            target.update_layer(adapter_name, peft_config)
            return
        if isinstance(target, BaseTunerLayer) or not isinstance(target, DilatedConv):
            raise ValueError(f"A patch goes on a dilated convolution, but {current_key} is {type(target).__name__}.")
        layer = PatchLayer(target, adapter_name, peft_config)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # peft copies `.weight` between the two, which a convolution of taps and a linear map does not have;
        # devices are the layer's own business.
        setattr(parent, child_name, new_module)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = True,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> Any:
        if merge:
            raise ValueError(
                "A patch cannot be merged: its bottleneck is not linear, so no convolution weight equals it. "
                "Keep the adapter, or call unload() to get the frozen encoder back."
            )
        return super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)

    @contextmanager
    def _enable_peft_forward_hooks(self, *_: Any, adapter_names: list[str] | None = None, **__: Any) -> Iterator[None]:
        # peft drops `adapter_names` for tuners that do not ask for it, and every row would get the active adapter
        if adapter_names is not None:
            raise ValueError("Patches do not take adapter_names; call set_adapter and give each batch one adapter.")
        yield

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        if not isinstance(config, PatchConfig):
            raise ValueError(f"A patch needs a PatchConfig, got {type(config).__name__}.")
