"""Factorisation machines: products of the vectors of all pairs of features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.features.embeddings import STD
from peterrec.features.head_weights import HeadWeights
from peterrec.features.term_input import TermInput
from peterrec.features.vector_field import VectorField


class FMTerm(nn.Module):
    """Σ_{i<j} ⟨v_i, v_j⟩ x_i x_j over all pairs of features (Rendle, ICDM 2010, eq. 1): `(B, H)`.

    The v_i are the embeddings that the network has of its fields, so that a deep body beside it learns them too
    (DeepFM, Guo et al., IJCAI 2017). The n values of a field of several are features with x = 1/n, and pairs of them
    count; a number is one feature, whose vector is x · v + u. With an encoder (`vectors`, its width D) the user's and
    the item's vector are a field each, as is the domain. In linear time, by Rendle's lemma 3.1. Heads share the vectors
    and have a weight a channel (`HeadWeights`).

    `places` are the fields that count, all if not given; then the domain and the encoder's vectors are left out.
    """

    places: Tensor

    def __init__(self, dim: int, *, heads: int, vectors: int | None, places: Sequence[int] | None = None):
        super().__init__()
        self.whole = places is None
        self.register_buffer("places", torch.tensor([] if places is None else places).long(), persistent=False)
        self.vectors = nn.ModuleList(VectorField(vectors, dim, std=STD) for _ in range(2) if vectors and places is None)
        self.heads = HeadWeights(heads, dim)

    def forward(self, batch: TermInput) -> Tensor:
        """The terms of a batch `(B, H)`, which has embedded fields."""
        vectors, squares = batch.embedded, batch.squares
        assert vectors is not None
        assert squares is not None
        if not self.whole:
            vectors, squares = vectors.index_select(1, self.places), squares.index_select(1, self.places)
        total, taken = vectors.sum(1), squares.sum(1)
        others = [batch.domain] if self.whole and batch.domain is not None else []
        others += [field(given, there) for field, (given, there) in zip(self.vectors, batch.vectors(), strict=False)]
        for one in others:
            total, taken = total + one, taken + one.square()
        return self.heads((total.square() - taken) / 2)
