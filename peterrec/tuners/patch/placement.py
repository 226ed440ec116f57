"""The places of a residual block where patches go (PeterRec, SIGIR 2020, Fig. 3b-e)."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from peterrec.encoders.dilated import BLOCKS, BottleneckBlock, PlainBlock
from peterrec.tuners.layer import TunerLayer

NORMS: dict[type[nn.Module], tuple[str, ...]] = {
    PlainBlock: ("unit1.norm", "unit2.norm"),
    BottleneckBlock: ("unit1.norm", "unit2.norm", "unit3.norm"),
}


@dataclass(frozen=True)
class Placement:
    """`modules` a kind of block: what is wrapped. A parallel patch reads the module's input, a serial one its output.

    goes_on: those modules in words. why_not: why a kind of block that is not in `modules` has no such place.
    """

    parallel: bool
    modules: dict[type[nn.Module], tuple[str, ...]]
    goes_on: str
    why_not: str = ""


CONVOLUTIONS: dict[type[nn.Module], tuple[str, ...]] = {
    PlainBlock: ("unit1.conv", "unit2.conv"),
    BottleneckBlock: ("unit2.conv",),
}
PLACEMENTS = {
    "serial_conv": Placement(parallel=False, modules=CONVOLUTIONS, goes_on="a dilated convolution"),
    # Leaves, and not the last unit as a whole, so that adapters of this placement stand in one model with `_conv` ones.
    "serial_block": Placement(
        parallel=False,
        modules={PlainBlock: ("unit2.activation",), BottleneckBlock: ("unit3.linear",)},
        goes_on="the output of a block's last unit",
    ),
    "parallel_conv": Placement(parallel=True, modules=CONVOLUTIONS, goes_on="a dilated convolution"),
    "parallel_unit": Placement(
        parallel=True,
        modules={PlainBlock: ("unit1", "unit2")},
        goes_on="a unit (dilated convolution, norm, ReLU)",
        why_not="their norm and ReLU stand before the convolution, so that no patch can end behind them. "
        "Take parallel_conv.",
    ),
}


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The residual blocks of a model, in order."""
    return (module for module in model.modules() if isinstance(module, tuple(BLOCKS.values())))


def unwrapped(block: nn.Module, name: str) -> nn.Module:
    """The module `name` of a block as it was before anything was wrapped."""
    module = block
    for part in name.split("."):
        module = getattr(module, part)
        while isinstance(module, TunerLayer):
            module = module.base_layer
    return module


def module_names(placement: str, model: nn.Module, *, norms: bool) -> set[str]:
    """Names of the modules that a placement wraps in the blocks of `model`, with their norms if `norms`.

    The norms inside a unit that is itself wrapped are not among them. Raises ValueError where the model has no
    residual blocks, or blocks without such a place.
    """
    kinds = {type(block) for block in blocks(model)}
    if not kinds:
        raise ValueError(f"A patch goes into residual blocks, and {type(model).__name__} has none.")
    place = PLACEMENTS[placement]
    for kind in kinds - place.modules.keys():
        raise ValueError(f"placement {placement} has no meaning in blocks of the kind {kind.__name__}: {place.why_not}")
    names = {name for kind in kinds for name in place.modules[kind]}
    if norms:
        names |= {
            norm
            for kind in kinds
            for norm in NORMS[kind]
            if not any(norm.startswith(f"{module}.") for module in place.modules[kind])
        }
    return names
