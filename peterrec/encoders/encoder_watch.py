"""Notices that an encoder is no longer what it was when something was computed with it."""

from itertools import chain, repeat
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as every

_version = attrgetter("_version")


class EncoderWatch:
    """Remembers the weights, the modules and the adapters of an encoder, cheaply enough to ask before every event.

    It sees weights that were written to, moved or replaced, modules that were exchanged, hooks and forwards that were
    hung on them, and adapters that were switched on or off or scaled. It asks no device for anything, and so does not
    see a weight's `.data` written to.
    """

    def __init__(self, encoder: nn.Module):
        children = [(own._modules, *each) for own in encoder.modules() for each in own.named_children()]
        self._parents, self._names, self._children = (
            map(list, zip(*children, strict=True)) if children else ([], [], [])
        )
        self._tensors = [*encoder.parameters(), *encoder.buffers()]
        self._counted = [tensor for tensor in self._tensors if not tensor.is_inference()]  # others keep no count
        self._tuned = tuned_modules(encoder)
        self._own = [module.__dict__ for module in encoder.modules()]
        self._hooks = [own[hooks] for own in self._own for hooks in ("_forward_pre_hooks", "_forward_hooks")]
        self._hooks += [every._global_forward_pre_hooks, every._global_forward_hooks]
        self._then = self._now()

    def unchanged(self) -> bool:
        """Whether the encoder computes what it computed then."""
        # lists of the same objects compare at once
        return list(map(dict.get, self._parents, self._names)) == self._children and self._then == self._now()

    def _now(self) -> tuple[list[Any], ...]:
        # loops that Python does not run itself: this is asked before every event of a user
        return (
            list(map(_version, self._counted)),
            list(map(Tensor.data_ptr, self._tensors)),
            [_adapters(module) for module in self._tuned],
            list(chain.from_iterable(self._hooks)) if any(self._hooks) else [],  # their numbers, which are given once
            list(map(dict.get, self._own, repeat("forward"))),
        )


def tuned_modules(encoder: nn.Module) -> list[Any]:
    """The modules inside that carry adapters: peft's layers, and its wrappers of whole modules.

    Each has `active_adapters` and `disable_adapters` (as properties; transformers has methods of these names).
    """
    return [m for m in encoder.modules() if isinstance(getattr(type(m), "active_adapters", None), property)]


def _adapters(module: Any) -> tuple[Any, ...]:
    scaling = getattr(module, "scaling", None)
    return (
        tuple(module.active_adapters),
        module.disable_adapters,
        tuple(getattr(module, "merged_adapters", ())),
        tuple(scaling.items()) if isinstance(scaling, dict) else None,
    )
