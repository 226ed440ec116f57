"""One vector a field of an impression."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.data.impressions.field_batch import MISSING, UNSEEN, FieldBatch, FieldSizes

STD = 0.05  # of every vector at start


class FieldEmbeddings(nn.Module):
    """Embeds the F fields of an impression, each as a vector of `dim` channels.

    A categorical value looks up its row; several values a field give the mean of their rows, none the row for missing
    ones; a number x gives `x · v + u`, and a missing one a vector of the field's own. Vectors start as normal noise of
    standard deviation 0.05, but for those of unseen values, which start at zero and stay there where training has no
    value that counts as unseen: such a value then says nothing for or against.
    """

    def __init__(self, sizes: FieldSizes, dim: int):
        super().__init__()
        self.sizes = sizes
        self.dim = dim
        starts = torch.tensor((0, *sizes.categorical), dtype=torch.long).cumsum(0)
        self.table = nn.Embedding(int(starts[-1]), dim) if sizes.categorical else None
        self.multi = nn.ModuleList(nn.EmbeddingBag(rows, dim, mode="mean") for rows in sizes.multi)
        # v, u and the vector of a missing number
        self.numeric = nn.Parameter(torch.empty(3, sizes.numeric, dim)) if sizes.numeric else None
        self.starts: Tensor  # where the rows of each categorical field begin in the table
        self.register_buffer("starts", starts[:-1], persistent=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws all vectors anew, as at the start."""
        for weight in self.parameters():
            weight.normal_(std=STD)
        if self.table is not None:
            self.table.weight.index_fill_(0, self.starts + UNSEEN, 0.0)
        for bag in self.multi:
            assert isinstance(bag, nn.EmbeddingBag)
            bag.weight[UNSEEN] = 0.0

    def forward(self, batch: FieldBatch) -> Tensor:
        """Vectors `(B, F, dim)` of a batch, in the order of `sizes.names`."""
        parts: list[Tensor] = []
        if self.table is not None:
            parts.append(self.table(batch.categorical + self.starts))
        if self.numeric is not None:
            slope, offset, missing = self.numeric
            parts.append(
                torch.where(batch.missing.unsqueeze(-1), missing, batch.numeric.unsqueeze(-1) * slope + offset)
            )
        for bag, (rows, offsets) in zip(self.multi, batch.multi, strict=True):
            assert isinstance(bag, nn.EmbeddingBag)
            ends = torch.cat((offsets[1:], offsets.new_full((1,), len(rows))))
            none = (ends == offsets).unsqueeze(-1)
            parts.append(torch.where(none, bag.weight[MISSING], bag(rows, offsets)).unsqueeze(1))
        if not parts:
            return batch.numeric.new_zeros(len(batch), 0, self.dim)
        return torch.cat(parts, dim=1)

    def squares(self, batch: FieldBatch, vectors: Tensor) -> Tensor:
        """Σ (x_i v_i)² `(B, F, dim)` over the features of each field; `vectors` `(B, F, dim)` are those of the batch.

        A field is one feature, but for one of several values: its n values in a row weigh x = 1/n each. What the square
        of a field's vector has beyond this is twice the products of pairs of its own values.
        """
        parts = [vectors[:, : len(self.sizes) - len(self.multi)].square()]
        for bag, (rows, offsets) in zip(self.multi, batch.multi, strict=True):
            assert isinstance(bag, nn.EmbeddingBag)
            ends = torch.cat((offsets[1:], offsets.new_full((1,), len(rows))))
            count = (ends - offsets).unsqueeze(-1)
            values = F.embedding(rows, bag.weight).square()
            places = torch.arange(len(rows), device=rows.device)
            mean = F.embedding_bag(places, values, offsets, mode="mean")
            found = torch.where(count == 0, bag.weight[MISSING].square(), mean / count.clamp(min=1))
            parts.append(found.unsqueeze(1))
        return torch.cat(parts, dim=1)

    def extra_repr(self) -> str:
        return f"fields={len(self.sizes)}, dim={self.dim}"
