"""Puts patches into an encoder, and takes them out."""

from typing import Any

from torch import nn

from peterrec.encoders.dilated import DilatedConv
from peterrec.tuners.model import EncoderTuner
from peterrec.tuners.patch.config import NAME, PatchConfig
from peterrec.tuners.patch.layer import PatchLayer


class PatchModel(EncoderTuner):
    """The tuner that peft drives for a `PatchConfig`."""

    prefix = f"{NAME}_"
    tuner_layer_cls = PatchLayer
    config_cls = PatchConfig

    def wrap(self, target: nn.Module, name: str, adapter_name: str, config: PatchConfig) -> PatchLayer:  # type: ignore[override]
        if not isinstance(target, DilatedConv):
            raise ValueError(f"A patch goes on a dilated convolution, but {name} is {type(target).__name__}.")
        return PatchLayer(target, adapter_name, config)

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
