"""Some of the fields of a batch, and which domain a row is of as one more."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from peterrec.data.impressions.field_batch import FIRST_VALUE, UNSEEN, FieldBatch, FieldSizes

DOMAIN = "(domain)"  # how the domain is called as a field


class FieldPart(nn.Module):
    """The fields of a term: those of `sizes` that are `named`, in the order of `sizes`; all, if none is.

    With `domains`, which domain a row is of is a categorical field more; an unknown domain is an unseen value of it.
    `sizes` are those of the part. `places` (F,) are those of its fields, without the domain, among all.
    """

    categorical: Tensor
    numeric: Tensor

    def __init__(self, sizes: FieldSizes, named: Sequence[str] = (), *, domains: int = 0):
        super().__init__()
        assert set(named) <= set(sizes.names), named
        kept = [name in named or not named for name in sizes.names]
        ends = (len(sizes.categorical), len(sizes.categorical) + sizes.numeric)
        categorical, numeric, multi = (
            [place for place in range(stop - start) if kept[start + place]]
            for start, stop in ((0, ends[0]), ends, (ends[1], len(sizes)))
        )
        self.places = [place for place, there in enumerate(kept) if there]
        self.whole = len(self.places) == len(sizes)
        self.domains = domains
        self.multi = multi
        names = [sizes.names[place] for place in self.places]
        if domains:
            names.insert(len(categorical), DOMAIN)
        self.sizes = FieldSizes(
            names=tuple(names),
            categorical=(
                *(sizes.categorical[place] for place in categorical),
                *((FIRST_VALUE + domains,) if domains else ()),
            ),
            numeric=len(numeric),
            multi=tuple(sizes.multi[place] for place in multi),
        )
        self.register_buffer("categorical", torch.tensor(categorical, dtype=torch.long), persistent=False)
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.long), persistent=False)

    def forward(self, fields: FieldBatch, domain_ids: Tensor) -> FieldBatch:
        """The part of a batch of all fields, of rows in the domains `domain_ids` `(B,)`, -1 where unknown."""
        found = fields
        if not self.whole:
            found = FieldBatch(
                categorical=fields.categorical.index_select(1, self.categorical),
                numeric=fields.numeric.index_select(1, self.numeric),
                missing=fields.missing.index_select(1, self.numeric),
                multi=tuple(fields.multi[place] for place in self.multi),
            )
        if not self.domains:
            return found
        known = (domain_ids >= 0) & (domain_ids < self.domains)
        rows = torch.where(known, domain_ids + FIRST_VALUE, UNSEEN)
        return FieldBatch(
            torch.cat([found.categorical, rows.unsqueeze(1)], dim=1), found.numeric, found.missing, found.multi
        )
