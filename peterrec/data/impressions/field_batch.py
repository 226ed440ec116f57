"""The fields of a batch of impressions as a model reads them, and how many rows its tables need for them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from peterrec.data.upload import upload

MISSING, UNSEEN, FIRST_VALUE = 0, 1, 2  # rows of each field's table


@dataclass(frozen=True)
class FieldSizes:
    """The F fields by `names`: Fc categorical ones, then Fn numeric ones, then Fm of several values a row.

    `categorical` (Fc,) and `multi` (Fm,) are the rows of each field's table: row 0 for a missing value, row 1 for one
    that training did not see, or too rarely, and those of the known values from row 2. `numeric` is Fn.
    """

    names: tuple[str, ...]
    categorical: tuple[int, ...]
    numeric: int
    multi: tuple[int, ...]

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.categorical) + self.numeric + len(self.multi)
        assert all(size >= FIRST_VALUE for size in (*self.categorical, *self.multi))

    def __len__(self) -> int:
        """The number of fields F."""
        return len(self.names)


@dataclass(frozen=True)
class FieldBatch:
    """The fields of B impressions, in the order of `FieldSizes.names`.

    `categorical` (B, Fc) int64 are rows of each field's own table; `numeric` (B, Fn) float32 is standardised, and 0
    where `missing` (B, Fn) bool; `multi` holds for each field its rows end to end (n,) and where those of each
    impression begin (B,), both int64, as `torch.nn.EmbeddingBag` takes them: an impression without values has none.
    """

    categorical: Tensor
    numeric: Tensor
    missing: Tensor
    multi: tuple[tuple[Tensor, Tensor], ...] = ()

    def __len__(self) -> int:
        """The number of impressions B."""
        return len(self.categorical)

    def to(self, device: torch.device) -> "FieldBatch":
        """The batch on `device`, by copies that nobody waits for."""
        return FieldBatch(
            categorical=upload(self.categorical, device),
            numeric=upload(self.numeric, device),
            missing=upload(self.missing, device),
            multi=tuple((upload(flat, device), upload(offsets, device)) for flat, offsets in self.multi),
        )
