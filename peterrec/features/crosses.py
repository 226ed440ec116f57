"""Cross products of fields, with a weight each: the wide part of Wide & Deep."""

import itertools
from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.data.impressions.field_batch import MISSING, UNSEEN, FieldSizes
from peterrec.features.term_input import TermInput

_MIX = 0x9E3779B97F4A7C15 - 2**64  # 2^64 / golden ratio, odd, as int64: products wrap, on every device alike


class CrossTerm(nn.Module):
    """A weight for each combination of values of the fields of a cross, for each of H heads: `(B, H)`.

    φ_k(x) = Π x_i^c_ki (Cheng et al., DLRS 2016, §3.1) over categorical fields and at most one of several values, whose
    n combinations count 1/n each. A cross whose tables multiply to at most `rows` has a weight for each combination;
    a larger one hashes its combinations into `rows` weights, so that some share one. Weights start at zero and a step
    moves those alone that it reads, so that an exact cross says nothing of a combination that training did not have;
    what a hashed one says of it is that of whoever has the place. An unseen value makes a combination count for
    nothing in both; a missing value is one like others.
    """

    def __init__(self, sizes: FieldSizes, crosses: Sequence[Sequence[str]], *, rows: int, heads: int):
        super().__init__()
        tables = _tables(sizes)
        categorical = {name: place for place, name in enumerate(sizes.names[: len(sizes.categorical)])}
        several = {name: place for place, name in enumerate(sizes.names[len(sizes) - len(sizes.multi) :])}
        self.crosses = tuple(tuple(cross) for cross in crosses)
        self.places = [[categorical[name] for name in cross if name in categorical] for cross in crosses]
        self.bags = [next((several[name] for name in cross if name in several), None) for cross in crosses]
        self.sizes = [
            [tables[name] for name in sorted(cross, key=lambda name: name in several)] for cross in self.crosses
        ]
        self.rows = [min(prod(own), rows) for own in self.sizes]
        self.exact = [prod(own) <= rows for own in self.sizes]
        # one table for all crosses; an embedding, so that it does not decay
        self.table = nn.Embedding(sum(self.rows), heads)
        nn.init.zeros_(self.table.weight)
        self.starts = [0, *itertools.accumulate(self.rows)][:-1]

    def forward(self, batch: TermInput) -> Tensor:
        """The terms of a batch `(B, H)`."""
        fields = batch.fields
        found = self.table.weight.new_zeros(len(fields), self.table.embedding_dim)
        for number, bag in enumerate(self.bags):
            codes = [fields.categorical[:, place] for place in self.places[number]]
            if bag is None:
                found = found + self._weights(number, codes)
                continue
            values, starts = fields.multi[bag]
            places = torch.arange(len(values), device=values.device)
            row = torch.searchsorted(starts, places, right=True) - 1  # whose each value is
            weights = self._weights(number, [*(code.index_select(0, row) for code in codes), values])
            none = self._weights(number, [*codes, torch.full_like(starts, MISSING)])
            ends = torch.cat((starts[1:], starts.new_full((1,), len(values))))
            mean = F.embedding_bag(places, weights, starts, mode="mean")
            found = found + torch.where((ends == starts).unsqueeze(1), none, mean)
        return found

    def _weights(self, number: int, codes: Sequence[Tensor]) -> Tensor:
        """The weights `(n, H)` of combinations of the fields' rows, `(n,)` each."""
        place = torch.zeros_like(codes[0])
        seen = torch.ones_like(codes[0], dtype=torch.bool)
        for code, size in zip(codes, self.sizes[number], strict=True):
            seen = seen & (code != UNSEEN)
            if self.exact[number]:
                place = place * size + code
            else:
                place = (place ^ code) * _MIX
                place = place ^ (place >> 29)
        if not self.exact[number]:
            place = (place & (2**62 - 1)) % self.rows[number]
        return torch.where(seen.unsqueeze(1), self.table(place + self.starts[number]), 0.0)

    def extra_repr(self) -> str:
        return f"crosses={len(self.crosses)}, hashed={self.exact.count(False)}"


def all_crosses(sizes: FieldSizes, *, fields: Sequence[str] = (), rows: int) -> list[tuple[str, str]]:
    """All pairs of categorical fields, or of one and one of several values, with at most `rows` combinations.

    Of `fields` alone, if some are given.
    """
    several = sizes.names[len(sizes) - len(sizes.multi) :]
    tables = {name: size for name, size in _tables(sizes).items() if name in fields or not fields}
    return [
        (one, other)
        for one, other in itertools.combinations(tables, 2)
        if tables[one] * tables[other] <= rows and not (one in several and other in several)
    ]


def _tables(sizes: FieldSizes) -> dict[str, int]:
    """The rows of each field that can be crossed."""
    several = sizes.names[len(sizes) - len(sizes.multi) :]
    return dict(
        zip((*sizes.names[: len(sizes.categorical)], *several), (*sizes.categorical, *sizes.multi), strict=True)
    )
