"""The places of a residual block where patches go (PeterRec, SIGIR 2020, Fig. 3b-e)."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from peterrec.encoders.block import Block
from peterrec.tuners.layer import TunerLayer


@dataclass(frozen=True)
class Placement:
    """`names`: which of the names that a block gives to its modules are wrapped.

    A parallel patch reads the module's input, a serial one its output. goes_on: those modules in words. why_not: why a
    kind of block that names none has no such place.
    """

    parallel: bool
    names: str
    goes_on: str
    why_not: str = ""

    def modules(self, block: Block) -> tuple[str, ...]:
        """The names of the modules of `block` that are wrapped."""
        return getattr(block, self.names)


PLACEMENTS = {
    "serial_conv": Placement(parallel=False, names="maps", goes_on="what ends a layer, or on a dilated convolution"),
    "serial_block": Placement(parallel=False, names="tail", goes_on="the output of a block's last unit"),
    "parallel_conv": Placement(parallel=True, names="layers", goes_on="a whole layer, or on a dilated convolution"),
    "parallel_unit": Placement(
        parallel=True,
        names="units",
        goes_on="a unit (dilated convolution, norm, ReLU)",
        why_not="their layers are not followed by a norm and a ReLU, behind which such a patch ends. "
        "Take parallel_conv.",
    ),
}


def blocks(model: nn.Module) -> Iterator[Block]:
    """The residual blocks of a model, in order."""
    return (module for module in model.modules() if isinstance(module, Block))


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
    residual blocks, blocks without such a place, or, with `norms`, none in them.
    """
    found = list(blocks(model))
    if not found:
        raise ValueError(f"A patch goes into residual blocks, and {type(model).__name__} has none.")
    place = PLACEMENTS[placement]
    names: set[str] = set()
    for block in found:
        kind, own = type(block).__name__, place.modules(block)
        if not own:
            raise ValueError(f"placement {placement} has no meaning in blocks of the kind {kind}: {place.why_not}")
        if norms and not block.norms:
            raise ValueError(f"train_norms has no meaning in blocks of the kind {kind}, which have no norms.")
        names.update(own)
        if norms:
            names.update(norm for norm in block.norms if not any(norm.startswith(f"{module}.") for module in own))
    return names
