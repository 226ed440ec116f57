"""Notices that an encoder is no longer what it was when something was computed with it."""

from typing import Any

from torch import Tensor, nn


class EncoderWatch:
    """Remembers the weights, the modules and the adapters of an encoder, cheaply enough to ask before every event.

    It sees weights that were written to, moved or replaced, modules that were exchanged, and adapters that were
    switched on or off. It asks no device for anything, and so does not see a weight's `.data` written to.
    """

    def __init__(self, encoder: nn.Module):
        self._encoder = encoder
        self._children = [
            (module._modules, name, child) for module in encoder.modules() for name, child in module.named_children()
        ]
        self._tensors = [*encoder.parameters(), *encoder.buffers()]
        self._tuned = tuned_modules(encoder)
        self._then = self._now()

    def unchanged(self) -> bool:
        """Whether the encoder computes what it computed then."""
        return all(modules.get(name) is child for modules, name, child in self._children) and self._then == self._now()

    def _now(self) -> tuple[list[tuple[int, int]], list[tuple[Any, ...]]]:
        return [(_version(tensor), tensor.data_ptr()) for tensor in self._tensors], [
            _adapters(module) for module in self._tuned
        ]


def tuned_modules(encoder: nn.Module) -> list[Any]:
    """The modules inside that carry adapters: peft's layers, and its wrappers of whole modules.

    Each has `active_adapters` and `disable_adapters` (as properties; transformers has methods of these names).
    """
    return [m for m in encoder.modules() if isinstance(getattr(type(m), "active_adapters", None), property)]


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # those made in inference mode keep no count


def _adapters(module: Any) -> tuple[Any, ...]:
    return tuple(module.active_adapters), module.disable_adapters, tuple(getattr(module, "merged_adapters", ()))
