"""Which fields each head of a network reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from peterrec.features.products import product_of
from peterrec.impression_recipe import Head


@dataclass(frozen=True)
class HeadInputs:
    """Places among the F fields: what the experts of each head that reads the body see, and each head's product.

    `own` holds the places of M heads, as many each, or is None where all see every field. `products` has one entry a
    head, None for a head without.
    """

    own: tuple[tuple[int, ...], ...] | None
    products: tuple[tuple[int, ...] | None, ...]

    @classmethod
    def of(cls, heads: Sequence[Head], names: Sequence[str]) -> "HeadInputs":
        """What `heads` read of the fields `names`, all of which they have."""
        own = None
        if any(head.fields for head in heads):
            own = tuple(
                tuple(names.index(name) for name in head.fields) or tuple(range(len(names)))
                for head in heads
                if head.layer != "none"
            )
            assert len({len(places) for places in own}) == 1
        products = (tuple(names.index(name) for name in head.product) or None for head in heads)
        return cls(own, tuple(products))

    def width(self, names: Sequence[str]) -> int:
        """How many fields an expert of the lowest layer reads."""
        return len(names) if self.own is None else len(self.own[0])

    def inputs(self, vectors: Tensor, others: Sequence[Tensor]) -> Tensor:
        """Vectors of fields `(B, F, dim)`, and `others` `(B, …)` that all experts read, as the input of a body.

        `(B, D)`, or `(B, M, D)` where heads have fields of their own.
        """
        if self.own is None:
            return torch.cat([vectors.flatten(1), *others], dim=1)
        # a list of places as an index would be uploaded, and waited for, in each step
        branches = [torch.cat([*(vectors[:, place] for place in places), *others], dim=1) for places in self.own]
        return torch.stack(branches, dim=1)

    def factors(self, vectors: Tensor) -> list[Tensor | None]:
        """The product `(B, dim)` of each head, of vectors of fields `(B, F, dim)`."""
        return [None if places is None else product_of(vectors, places) for places in self.products]
