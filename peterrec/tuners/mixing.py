"""Mixed batches of peft's own methods: most of them ignore `adapter_names` in silence, so they are refused instead."""

from typing import Any

from peft import PeftModel
from torch import nn

HEARING = ("PETERREC_PATCH", "PETERREC_STAR", "LORA", "ROAD")  # give each row its own adapter, or refuse by themselves


def refuse_deaf_mixing(model: PeftModel) -> None:
    """Makes `model` raise ValueError for `adapter_names` where its method would give every row the active adapter."""
    if not any(hook is _refuse for hook in model._forward_pre_hooks.values()):
        model.register_forward_pre_hook(_refuse, with_kwargs=True)


def _refuse(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    if kwargs.get("adapter_names") is None:
        return
    assert isinstance(model, PeftModel)
    for config in model.peft_config.values():
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind not in HEARING:
            raise ValueError(
                f"Adapters of peft's method {kind} take no adapter_names: every row would get the active one. Call "
                "set_adapter and give each adapter a batch of its own; patches, star, LoRA and RoAd can be mixed."
            )
