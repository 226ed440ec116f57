"""First-order terms: a weight a feature, as in logistic regression."""

import torch
from torch import Tensor, nn

from peterrec.features.embeddings import FieldEmbeddings
from peterrec.features.field_part import FieldPart
from peterrec.features.term_input import TermInput
from peterrec.features.vector_field import VectorField


class LinearTerm(nn.Module):
    """Σ w_i x_i for each of H heads, with weights of its own: `(B, H)`.

    A weight for each value of a categorical field, and one where it is missing; the mean of the weights of several
    values; a number's slope and constant, or a weight where it is missing; with an encoder (`vectors`, the width D of
    its vectors, read where the part is of all fields) a linear map of the user's and one of the item's vector. All
    start at zero: an unseen value says nothing.
    """

    def __init__(self, part: FieldPart, *, heads: int, vectors: int | None):
        super().__init__()
        self.part = part
        self.weights = FieldEmbeddings(part.sizes, heads)
        self.vectors = nn.ModuleList(VectorField(vectors, heads, std=0.0) for _ in range(2) if vectors)
        with torch.no_grad():
            for weight in self.weights.parameters():
                weight.zero_()

    def forward(self, batch: TermInput) -> Tensor:
        """The terms of a batch `(B, H)`."""
        found = self.weights(self.part(batch.fields, batch.domain_ids)).sum(1)
        for field, (vectors, there) in zip(self.vectors, batch.vectors(), strict=False):
            found = found + field(vectors, there)
        return found
