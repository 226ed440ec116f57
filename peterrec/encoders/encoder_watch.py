"""Notices that an encoder is no longer what it was when something was computed with it."""

from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every


class EncoderWatch:
    """Remembers the weights, the modules and the adapters of an encoder, cheaply enough to ask before every event.

    It sees weights that were written to, moved or replaced, modules that were exchanged, hooks and forwards that were
    hung on them, and adapters that were switched on or off or scaled. It asks no device for anything, and so does not
    see a weight's `.data` written to.
    """

    def __init__(self, encoder: nn.Module):
        self._encoder = encoder
        self._children = [
            (module._modules, name, child) for module in encoder.modules() for name, child in module.named_children()
        ]
        self._tensors = [*encoder.parameters(), *encoder.buffers()]
        self._tuned = tuned_modules(encoder)
        self._own = [module.__dict__ for module in encoder.modules()]
        self._hooks = [own[hooks] for own in self._own for hooks in ("_forward_pre_hooks", "_forward_hooks")]
        self._hooks += [every._global_forward_pre_hooks, every._global_forward_hooks]
        self._then = self._now()

    def unchanged(self) -> bool:
        """Whether the encoder computes what it computed then."""
        return all(modules.get(name) is child for modules, name, child in self._children) and self._then == self._now()

    def _now(self) -> tuple[list[Any], ...]:
        return (
            [(_version(tensor), tensor.data_ptr()) for tensor in self._tensors],
            [_adapters(module) for module in self._tuned],
            list(chain.from_iterable(self._hooks)),  # their numbers, which are given once
            [own.get("forward") for own in self._own],
        )


def tuned_modules(encoder: nn.Module) -> list[Any]:
    """The modules inside that carry adapters: peft's layers, and its wrappers of whole modules.

    Each has `active_adapters` and `disable_adapters` (as properties; transformers has methods of these names).
    """
    return [m for m in encoder.modules() if isinstance(getattr(type(m), "active_adapters", None), property)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # those made in inference mode keep no count


def _adapters(module: Any) -> tuple[Any, ...]:
    scaling = getattr(module, "scaling", None)
    return (
        tuple(module.active_adapters),
        module.disable_adapters,
        tuple(getattr(module, "merged_adapters", ())),
        tuple(scaling.items()) if isinstance(scaling, dict) else None,
    )
