"""What the terms of a ranker read of B impressions."""

from dataclasses import dataclass

from torch import Tensor

from peterrec.data.impressions.field_batch import FieldBatch


@dataclass(frozen=True)
class TermInput:
    """The fields of B impressions, `domain_ids` `(B,)` (-1 where unknown), and what is shared of embeddings.

    `embedded` `(B, F, dim)` are the fields' vectors that the network's body reads as well, `squares` `(B, F, dim)` the
    sums of their features' squares (`FieldEmbeddings.squares`), `domain` `(B, dim)` the vector of the domain, None
    where there are none; both of the former are None where no term multiplies them. With an encoder `users` and `items`
    `(B, D)`, and which rows have one, `known` and `there` `(B,)`.
    """

    fields: FieldBatch
    domain_ids: Tensor
    embedded: Tensor | None = None
    squares: Tensor | None = None
    domain: Tensor | None = None
    users: Tensor | None = None
    known: Tensor | None = None
    items: Tensor | None = None
    there: Tensor | None = None

    def vectors(self) -> list[tuple[Tensor, Tensor]]:
        """The encoder's vectors `(B, D)`, user then item, and which rows have one `(B,)`; none without an encoder."""
        pairs = ((self.users, self.known), (self.items, self.there))
        return [(vectors, there) for vectors, there in pairs if vectors is not None and there is not None]
