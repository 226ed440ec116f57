"""The body of a network with several outputs: routed layers on top of each other."""

from collections.abc import Sequence

from torch import Tensor, nn

from peterrec.body_recipe import BodyLayer
from peterrec.errors import SettingsError
from peterrec.routing.layer import RoutedLayer
from peterrec.routing.wiring import wire


class Body(nn.Module):
    """A stack of routed layers, the lowest first, on inputs of `channels`, for the heads of M `outputs`; with `apart`
    each output has an input of its own, which its experts in the lowest layer read.

    `reads` (M,) says which layer each head reads, negative from the top (all the top, if not given); an output has no
    part in the layers above its own. What a layer gives to the one above:

    * `one_hot` with a shared expert and `softmax` with `tied`: one branch, which everything above reads.
    * `one_hot` with own experts, `linear`, `matrix`: a branch an output, read by the experts and gates of that output.
    * `softmax`: a branch an output likewise, and a shared one for the shared experts and gates of the layer above; the
      shared branch's gate sees all experts (PLE).
    * `hard_concrete`: a branch for each expert and each gate of the layer above, and one for each head that reads it.

    `widths` are the channels of each layer. Experts start as `torch.nn.Linear` does. Raises SettingsError where layers
    do not fit together.
    """

    def __init__(
        self,
        layers: Sequence[BodyLayer],
        *,
        channels: int,
        outputs: int,
        reads: Sequence[int] | None = None,
        apart: bool = False,
    ):
        super().__init__()
        reads = [-1] * outputs if reads is None else list(reads)
        assert len(reads) == outputs
        assert all(-len(layers) <= layer < len(layers) for layer in reads)
        self.wirings = wire(layers, reads=[layer % len(layers) for layer in reads], apart=apart)
        self.layers = nn.ModuleList()
        self.widths = [layer.hidden[-1] for layer in layers]
        for layer, wiring, below in zip(layers, self.wirings, [channels, *self.widths], strict=False):
            self.layers.append(RoutedLayer(layer, wiring, below=below))

    def forward(self, x: Tensor, domain_ids: Tensor | None = None) -> list[Tensor]:
        """Maps `(B, D)`, or `(B, M, D)` with an input an output, to the branches `(B, O, H)` of each layer, the top
        last; `branch` says which is a head's.

        The top has one an output that reads it. `domain_ids` `(B,)`, -1 where unknown, go to every linear map.
        """
        branches = x.unsqueeze(1) if x.dim() == 2 else x
        given: list[Tensor] = []
        for layer in self.layers:
            branches = layer(branches, domain_ids=domain_ids)
            given.append(branches)
        if self.wirings[-1].single:
            given[-1] = branches.expand(-1, len(self.wirings[-1].outputs), -1)
        return given

    def branch(self, layer: int, output: int) -> int:
        """Which branch of what `layer` (negative from the top) gives the head of `output` reads.

        Raises SettingsError where the layer has none for it.
        """
        number = layer % len(self.layers)
        wiring = self.wirings[number]
        found = wiring.branch(output) if output in wiring.outputs else None
        if found is None:
            raise SettingsError(
                f"body: layer {number} has no vector for the head of output {output}: say which layer each head reads "
                "when the body is built (reads)."
            )
        return wiring.outputs.index(output) if wiring is self.wirings[-1] else found

    def penalty(self) -> Tensor:
        """The sum `()` of what the layers add to the loss, by the weights of the recipe; 0 where none does."""
        total = next(self.parameters()).new_zeros(())
        for layer in self.layers:
            assert isinstance(layer, RoutedLayer)
            if (term := layer.penalty()) is not None:
                total = total + term
        return total

    def gates(self) -> dict[str, Tensor]:
        """What to log of how experts are mixed, by layer and name: `0.weights` `(O, E)`, `0.entropy` `(O,)`, ….

        Rows are branches, as the layer gives them; those of a softmax are means over the last batch.
        """
        found: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, RoutedLayer)
            found |= {f"{number}.{name}": value for name, value in layer.router.gates().items()}
        return found
