"""Who reads whom between the layers of a body."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError

Owner = int | None  # the output that an expert, a gate or a branch belongs to; None: it is shared


@dataclass(frozen=True)
class Wiring:
    """The parts of one layer, and which branch of the layer below each of them reads.

    `outputs` are those that a head reads here or further up, `experts` the owners of the experts, shared ones first.
    The layer gives `handed` branches, one to each reader of the layer above (its experts, then its gates), and then
    one to each owner in `branches`; with `single` this is one for everybody. `expert_inputs` and `gate_inputs` (one
    a branch, softmax only) are branches of the layer below.
    """

    outputs: tuple[int, ...]
    experts: tuple[Owner, ...]
    branches: tuple[Owner, ...]
    handed: int = 0
    single: bool = False
    gated: bool = False
    expert_inputs: tuple[int, ...] = ()
    gate_inputs: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """How many branches the layer gives."""
        return self.handed + len(self.branches)

    @property
    def readers(self) -> tuple[Owner, ...]:
        """The owners of what reads the layer below."""
        return self.experts + (self.branches if self.gated else ())

    def visible(self, owner: Owner) -> tuple[int, ...]:
        """Which experts a gate sees: a shared gate all, that of an output the shared ones and its own."""
        return tuple(e for e, of in enumerate(self.experts) if owner is None or of in (None, owner))

    def branch(self, owner: Owner) -> int | None:
        """The branch of an output, or the shared one; None if there is none."""
        if self.single:
            return 0
        return self.handed + self.branches.index(owner) if owner in self.branches else None


def wire(layers: Sequence[BodyLayer], *, reads: Sequence[int], apart: bool = False) -> list[Wiring]:
    """The wiring of each of `layers`, the lowest first, for outputs whose heads read the layers `reads` (M,).

    With `apart` the body has an input an output, not one for all. Raises SettingsError where layers do not fit.
    """
    if len(layers) - 1 not in reads:
        raise SettingsError(
            f"No head reads the top of the body, layer {len(layers) - 1}: leave that layer out, or set layer = -1 in "
            "one of [[heads]]."
        )
    wirings: list[Wiring] = []
    above: tuple[Owner, ...] = ()
    for number in range(len(layers) - 1, -1, -1):
        wirings.insert(0, _parts(layers[number], number=number, reads=reads, above=above))
        above = wirings[0].readers
    return [
        _joined(wiring, wirings[number - 1] if number else None, number=number, apart=apart)
        for number, wiring in enumerate(wirings)
    ]


def _parts(layer: BodyLayer, *, number: int, reads: Sequence[int], above: tuple[Owner, ...]) -> Wiring:
    outputs = tuple(m for m, read in enumerate(reads) if read >= number)
    heads = tuple(m for m in outputs if reads[m] == number)
    own = tuple(m for m in outputs for _ in range(layer.own_experts))
    parts = Wiring(outputs=outputs, experts=(None,) * layer.experts + own, branches=outputs)
    if layer.router == "hard_concrete":
        return replace(parts, branches=heads, handed=len(above))
    if layer.router == "one_hot" and layer.experts:
        return replace(parts, branches=(None,), single=True)
    if layer.router != "softmax":
        return parts
    if layer.tied and layer.own_experts:
        raise SettingsError(f"body: layer {number} has tied = true, one gate on all experts: set own_experts = 0.")
    if layer.tied:
        return replace(parts, branches=(None,), single=True, gated=True)
    wanted = {*above, *heads}  # a gate that nobody reads would never learn
    shared = (None,) if None in wanted else ()
    return replace(parts, branches=(*(m for m in outputs if m in wanted), *shared), gated=True)


def _joined(wiring: Wiring, below: Wiring | None, *, number: int, apart: bool) -> Wiring:
    if below is None and apart:
        if wiring.handed or any(owner is None for owner in wiring.readers):
            raise SettingsError(
                "heads: fields are what a head's own expert in the lowest layer of the body reads, and that layer has "
                "shared ones: set experts = 0, own_experts = 1 and router = 'matrix', 'linear' or 'one_hot' there."
            )
        owned = [owner for owner in wiring.readers if owner is not None]
        experts = len(wiring.experts)
        return replace(wiring, expert_inputs=tuple(owned[:experts]), gate_inputs=tuple(owned[experts:]))
    if below is None:  # all read the body's input
        return replace(wiring, expert_inputs=(0,) * len(wiring.experts), gate_inputs=(0,) * len(wiring.branches))
    inputs: list[int] = []
    for place, owner in enumerate(wiring.readers):
        branch = place if below.handed else below.branch(owner)
        if branch is None:
            raise SettingsError(
                f"body: layer {number} has shared experts or one gate for all, and layer {number - 1} below it gives "
                "one vector an output, none that is shared: set experts = 0, own_experts = 1 in the upper layer, or "
                "router = 'softmax' or 'hard_concrete' in the lower one."
            )
        inputs.append(branch)
    experts = len(wiring.experts)
    return replace(wiring, expert_inputs=tuple(inputs[:experts]), gate_inputs=tuple(inputs[experts:]))
