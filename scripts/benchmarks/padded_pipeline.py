"""The naive data pipeline: users as Python lists, each padded to the longest possible, stacked by torch's loader."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from peterrec.data.vocabulary import PAD


class PaddedUsers(Dataset[Tensor]):
    """Histories of at most `length` + 1 events; a row `(length + 1,)` of them, PAD at the end."""

    def __init__(self, histories: Sequence[Sequence[int]], *, length: int) -> None:
        self._histories = histories
        self._width = length + 1

    def __len__(self) -> int:
        return len(self._histories)

    def __getitem__(self, index: int) -> Tensor:
        events = list(self._histories[index])
        return torch.tensor(events + [PAD] * (self._width - len(events)), dtype=torch.long)


def padded_batches(histories: Sequence[Sequence[int]], *, length: int, users: int) -> DataLoader[Tensor]:
    """Shuffled batches `(users, length + 1)`, the last one smaller."""
    generator = torch.Generator().manual_seed(0)
    return DataLoader(PaddedUsers(histories, length=length), batch_size=users, shuffle=True, generator=generator)
