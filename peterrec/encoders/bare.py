"""Whether modules are what they were built as, so that their weights may be read around them."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_bare(module: nn.Module, kind: type[nn.Module], *parameters: str) -> bool:
    """Whether calling `module` does what `kind` does, and no more: exactly that class, without hooks.

    A wrapper, a parametrisation, a replaced `forward` and parameters of another class (sharded, quantised) say no;
    so do `parameters` that it does not have, and hooks that are registered for all modules.
    """
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and not any(getattr(module, hooks) for hooks in HOOKS)
        and not _has_any_global_hook()
        and all(p is None or type(p) is nn.Parameter for p in module._parameters.values())
        and all(module._parameters.get(name) is not None for name in parameters)
    )


def traces() -> bool:
    """Whether torch is recording or transforming the program, which then wants to see its plain operations."""
    return torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active()


def any_needs_gradient(*tensors: Tensor) -> bool:
    """Whether a function of these tensors takes part in differentiation."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
