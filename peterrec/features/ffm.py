"""Field-aware factorisation machines: each feature has a vector for each field that it meets."""

import torch
from torch import Tensor, nn

from peterrec.features.embeddings import STD, FieldEmbeddings
from peterrec.features.field_part import FieldPart
from peterrec.features.head_weights import HeadWeights
from peterrec.features.term_input import TermInput
from peterrec.features.vector_field import VectorField


class FFMTerm(nn.Module):
    """Σ_{i<j} ⟨v_{i,f(j)}, v_{j,f(i)}⟩ x_i x_j over all pairs of features (Juan et al., RecSys 2016, eq. 4): `(B, H)`.

    A feature i of field f(i) has a vector of `dim` channels for each of the F fields, in a table of its own: F · dim
    numbers a value. Features, domain and the encoder's vectors are as in `FMTerm`, pairs within a field of several
    values too. Heads share the vectors and have a weight a channel (`HeadWeights`).
    """

    def __init__(self, part: FieldPart, *, dim: int, heads: int, vectors: int | None):
        super().__init__()
        self.part = part
        self.fields = len(part.sizes) + (2 if vectors else 0)
        self.dim = dim
        self.embeddings = FieldEmbeddings(part.sizes, self.fields * dim)
        self.vectors = nn.ModuleList(VectorField(vectors, self.fields * dim, std=STD) for _ in range(2) if vectors)
        self.heads = HeadWeights(heads, dim)

    def forward(self, batch: TermInput) -> Tensor:
        """The terms of a batch `(B, H)`."""
        fields = self.part(batch.fields, batch.domain_ids)
        vectors = self.embeddings(fields)
        squares = self.embeddings.squares(fields, vectors)
        others = [field(given, there) for field, (given, there) in zip(self.vectors, batch.vectors(), strict=False)]
        if others:
            more = torch.stack(others, dim=1)
            vectors, squares = torch.cat([vectors, more], dim=1), torch.cat([squares, more.square()], dim=1)
        shape = (len(vectors), self.fields, self.fields, self.dim)
        seen = vectors.view(shape)  # of field f, for field g: (B, F, F, dim)
        twice = (seen * seen.transpose(1, 2)).sum((1, 2))
        # what a feature would do with itself: its vector for its own field
        itself = squares.view(shape).diagonal(dim1=1, dim2=2).sum(-1)
        return self.heads((twice - itself) / 2)
