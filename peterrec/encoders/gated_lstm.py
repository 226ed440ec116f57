"""The block of DUPN: an LSTM whose gates also see what kind of event each one was."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peterrec.encoders.block import Block
from peterrec.encoders.dropout import Dropout
from peterrec.encoders.time_major import TimeMajorLinear


class GatedLSTM(nn.Module):
    """The property-gated LSTM of DUPN (Ni et al., KDD 2018, §3.2), of the item e and the property p of each event.

    Input and forget gate see e, p, h and c of the event before; the candidate sees e and h alone; the output gate sees
    e, p, h of the event before and the new c: `c = f ⊙ c' + i ⊙ tanh(W e + U h' + b)`, `h = o ⊙ tanh(c)`. Without
    `properties` (P channels, 0: none) the gates see the item alone. The rows of `input` and `recurrent` are those of
    i, f, o and candidate, of `property` i, f, o, of `cell` i, f.
    """

    def __init__(self, channels: int, *, properties: int):
        super().__init__()
        self.channels = channels
        self.input = TimeMajorLinear(channels, 4 * channels)
        self.property = TimeMajorLinear(properties, 3 * channels, bias=False) if properties else None
        self.recurrent = TimeMajorLinear(channels, 4 * channels, bias=False)
        self.cell = TimeMajorLinear(channels, 2 * channels, bias=False)
        self.new_cell = TimeMajorLinear(channels, channels, bias=False)

    def start(self) -> None:
        """Draws the weights: orthogonal ones behind h, Xavier's behind e and p, none behind c; an open forget gate."""
        size = self.channels
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias[size : 2 * size])
        if self.property is not None:
            nn.init.xavier_uniform_(self.property.weight)
        for weight in self.recurrent.weight.split(size):
            nn.init.orthogonal_(weight)
        nn.init.zeros_(self.cell.weight)
        nn.init.zeros_(self.new_cell.weight)

    def forward(self, x: Tensor, properties: Tensor | None = None, domain_ids: Tensor | None = None) -> Tensor:
        """Maps items `(B, L, D)`, with properties `(B, L, P)` or none, to states h `(B, L, D)`."""
        given = self.input(x, domain_ids=domain_ids)
        if properties is not None:
            assert self.property is not None
            given = given + F.pad(self.property(properties, domain_ids=domain_ids), (0, self.channels))
        return _through_time(self, given, domain_ids).to(x.dtype)  # type: ignore[call-arg]


@torch.compiler.disable  # a graph would hold every step, and be made again for every length
def _through_time(lstm: GatedLSTM, given: Tensor, domain_ids: Tensor | None) -> Tensor:
    """From what items and properties give to gates and candidate, `(B, L, 4 · D)`, to h `(B, L, D)`, in float32."""
    size, kind = lstm.channels, given.dtype
    h = c = given.new_zeros(given.shape[0], 1, size, dtype=torch.promote_types(kind, torch.float32))
    states = []
    for step in given.split(1, dim=1):
        seen = step + lstm.recurrent(h.to(kind), domain_ids=domain_ids)
        gates, outer, candidate = seen.split((2 * size, size, size), dim=2)
        i, f = torch.sigmoid(gates + lstm.cell(c.to(kind), domain_ids=domain_ids)).chunk(2, dim=2)
        c = f * c + i * torch.tanh(candidate)
        h = torch.sigmoid(outer + lstm.new_cell(c.to(kind), domain_ids=domain_ids)) * torch.tanh(c)
        states.append(h.transpose(0, 1))
    return torch.cat(states).transpose(0, 1)


class GatedLSTMBlock(Block):
    """A property-gated LSTM and dropout. Patches stand behind or beside the LSTM, outside of its recurrence."""

    maps = layers = tail = ("lstm",)

    def __init__(self, channels: int, *, properties: int, dropout: float):
        super().__init__()
        self.lstm = GatedLSTM(channels, properties=properties)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, properties: Tensor | None = None, domain_ids: Tensor | None = None) -> Tensor:
        """Maps `(B, L, D)`, padded on the right if at all, with properties `(B, L, P)` or none, to `(B, L, D)`."""
        given = () if properties is None else (properties,)
        return self.dropout(self.lstm(x, *given, domain_ids=domain_ids))
