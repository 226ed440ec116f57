"""What a task adds to an encoder's embeddings so that histories of two domains can be read."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.data.vocabulary import FIRST_ITEM, PAD


class MixedInput(nn.Module):
    """Embeddings of W − 3 target items beside the V rows of an encoder, and a mark for the events of each domain.

    Item rows are those of `PairedLogs.mixed`: below V the encoder's, from V on target items. All starts at zero, so
    that at first a history reads as the encoder embeds its source events. Special rows get no mark.
    """

    def __init__(self, channels: int, *, source_rows: int, target_rows: int):
        super().__init__()
        self.source_rows = source_rows
        self.items = nn.Embedding(target_rows - FIRST_ITEM, channels)
        self.marks = nn.Parameter(torch.zeros(2, channels))  # of source and of target events
        nn.init.zeros_(self.items.weight)

    def source_ids(self, input_ids: Tensor) -> Tensor:
        """Mixed rows `(B, L)` with PAD where a target item stands."""
        return input_ids.masked_fill(input_ids >= self.source_rows, PAD)

    def forward(self, embedded: Tensor, input_ids: Tensor) -> Tensor:
        """Embeddings `(B, L, D)` of mixed rows `(B, L)`, from those that the encoder has of their `source_ids`.

        In time-major memory.
        """
        rows = input_ids.transpose(0, 1).contiguous()
        target = (rows >= self.source_rows).unsqueeze(-1)
        source = ((rows >= FIRST_ITEM) & (rows < self.source_rows)).unsqueeze(-1)
        own = F.embedding((rows - self.source_rows).clamp(min=0), self.items.weight) + self.marks[1]
        return torch.where(target, own, embedded.transpose(0, 1) + self.marks[0] * source).transpose(0, 1)

    @torch.no_grad()
    def grow(self, items: int) -> None:
        """Takes so many more target items behind those that it has, with zero vectors."""
        old = self.items
        self.items = nn.Embedding(old.num_embeddings + items, old.embedding_dim).to(old.weight)
        self.items.weight.copy_(F.pad(old.weight, (0, 0, 0, items)))
        self.items.requires_grad_(old.weight.requires_grad)

    def extra_repr(self) -> str:
        return f"source_rows={self.source_rows}"
