"""The naive peer: NextItNet as one writes it in torch without thinking of speed, and its training step.

It follows the public implementations (Yuan et al., WSDM 2019, Fig. 3b): batch-first tensors, `nn.Conv2d` with a 1 × 3
kernel on NCHW, stock layer norm, the logits of all positions at once, stock cross-entropy, default Adam. Where these
differ it takes the cheaper way: one table for input and output, no padding mask, no second pass over the targets.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.conditions import Conditions
from benchmarks.workload import KERNEL, Workload
from peterrec.data.vocabulary import PAD

BATCHES = 4  # that a step takes in turn


class NaiveBlock(nn.Module):
    """`x + dropout(ReLU(LN2(conv_2d(ReLU(LN1(conv_d(x)))))))` on `(B, L, D)`."""

    def __init__(self, channels: int, dilations: tuple[int, int], *, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, (1, KERNEL), dilation=(1, d)) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in dilations)
        self.dilations = dilations
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv, norm, dilation in zip(self.convs, self.norms, self.dilations, strict=True):
            image = F.pad(out.permute(0, 2, 1).unsqueeze(2), ((KERNEL - 1) * dilation, 0, 0, 0))
            out = F.relu(norm(conv(image).squeeze(2).permute(0, 2, 1)))
        return x + self.dropout(out)


class NaiveNextItNet(nn.Module):
    """Item rows `(B, L)` to hidden states `(B, L, D)`, and the loss of the next item at each position."""

    def __init__(self, vocabulary: int, channels: int, dilations: tuple[int, ...], *, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        pairs = zip(dilations[::2], dilations[1::2], strict=True)
        self.blocks = nn.Sequential(*(NaiveBlock(channels, pair, dropout=dropout) for pair in pairs))

    def forward(self, ids: Tensor) -> Tensor:
        return self.blocks(self.dropout(self.embedding(ids)))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of `targets` `(B, L)` among all rows; PAD counts for nothing."""
        logits = self(ids) @ self.embedding.weight.t()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=PAD)


class NaiveStep:
    """One training step of it a call: loss, backward, `torch.optim.Adam` with its defaults."""

    def __init__(self, workload: Workload, conditions: Conditions, *, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self._conditions = conditions
        model = NaiveNextItNet(workload.vocabulary, workload.channels, workload.dilations, dropout=dropout)
        self.model = model.to(conditions.device)
        self._optimizer = torch.optim.Adam(self.model.parameters())
        events = torch.from_numpy(workload.histories(BATCHES * workload.users))
        self._batches = itertools.cycle(events.split(workload.users))
        self.targets = workload.positions
        self.flops = workload.positions * (workload.convolution_flops() + workload.softmax_flops())

    def __call__(self) -> None:
        self.train_on(next(self._batches))

    def train_on(self, events: Tensor | NDArray[np.int64]) -> None:
        """A step on events `(B, L + 1)`, PAD at the end of short ones."""
        events = torch.as_tensor(events).to(self._conditions.device, non_blocking=True)
        self._optimizer.zero_grad()
        with self._conditions.autocast():
            loss = self.model.loss(events[:, :-1], events[:, 1:])
        loss.backward()
        self._optimizer.step()
