"""What of the users of a training stands still, and is computed once instead of in each step."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.sequences import Sequences
from peterrec.inference import encode
from peterrec.model import TaskModel
from peterrec.training.standing_states import StandingStates, kept_positions


class StandingUsers:
    """The users of `parts`, rows of `histories` by name, as far as the training leaves them as they are.

    Their vectors, when nothing in the encoder trains and what the readout trains comes after its sums
    (`keeps_vectors`); else, within `cache_mb`, states (`keeps_states`): those that a readout which trains reads, or
    those below the first block in which something trains. `blocks` stand still, and what is kept takes `bytes`.
    """

    def __init__(
        self,
        model: TaskModel,
        histories: Sequences,
        *,
        parts: Mapping[str, NDArray[np.int64]],
        max_length: int,
        cache_mb: int,
    ):
        self._model = model
        self._histories = histories
        self._parts = parts
        self._max_length = max_length
        self._cache_mb = cache_mb
        self._pooled: dict[str, Tensor] = {}
        self._states: dict[str, StandingStates] = {}
        self.blocks = model.standing_blocks
        self._all = model.encoder_stands
        self.keeps_vectors = self._all and model.reader.stands
        self.bytes = self._bytes()
        self.keeps_states = 0 < self.bytes <= cache_mb * 2**20

    def plan(self) -> str:
        """In words: what is computed once, and what in each step."""
        size = f"{self.bytes / 2**20:,.1f} MiB"
        too_much = f"take {size}, more than cache_mb = {self._cache_mb}: each step computes them again"
        below = f"{self.blocks} of {len(self._model.base_encoder.blocks)} blocks stand still"
        if self.keeps_vectors:
            return "Nothing in the encoder trains: user vectors are computed once."
        if self._all:
            what = "Nothing in the encoder trains, but the readout does: the states that it reads"
            if self.keeps_states:
                return f"{what} are computed once ({size})."
            return f"{what} {too_much}." if self.bytes else f"{what} are item vectors, which each step looks up."
        if self.keeps_states:
            return f"{below}: the states above them are computed once ({size})."
        if not self.blocks:
            return "The encoder trains from its lowest block on: each step computes all of it."
        if not self.bytes:
            return f"{below}, but the readout reads layers below: each step computes all of it."
        return f"{below}, but the states above them {too_much}, without gradients."

    def pooled(self, name: str, device: torch.device) -> Tensor:
        """What the readout takes from the states of a part's users, `(N, K, D)`, before layers are mixed; kept."""
        if name not in self._pooled:
            self._pooled[name] = self.pooled_now(name, device)
        return self._pooled[name]

    def pooled_now(self, name: str, device: torch.device) -> Tensor:
        """As `pooled`, computed by the model as it is."""
        model = self._model
        was_training = model.training
        model.eval()
        try:
            reading = model.reading(self._max_length)
            rows = self._parts[name]
            return encode(model.pooled_users, self._histories, rows=rows, reading=reading, device=device).to(device)
        finally:
            model.train(was_training)

    def states(self, name: str, device: torch.device) -> StandingStates:
        """The states of a part's users; kept."""
        if name not in self._states:
            self._states[name] = StandingStates(
                self._model,
                self._histories,
                rows=self._parts[name],
                max_length=self._max_length,
                blocks=self.blocks,
                device=device,
            )
        return self._states[name]

    def _bytes(self) -> int:
        """What the states of all parts take; 0 where there are none to keep."""
        model, reader = self._model, self._model.reader
        # item vectors, below the lowest block, are looked up as quickly as kept states
        lowest = max(reader.layers) if self._all else self.blocks
        if self.keeps_vectors or not lowest or (not self._all and min(reader.layers) < self.blocks):
            return 0
        positions = sum(
            int(
                kept_positions(model, self._histories, rows=rows, max_length=self._max_length, blocks=self.blocks).sum()
            )
            for rows in self._parts.values()
        )
        channels = len(reader.layers) * model.config.hidden_size
        if not self._all:  # asked of the encoder: one of two stacks has the states of both
            probe = torch.zeros(1, 1, dtype=torch.long, device=model.base_encoder.device)
            channels = model.states_above(self.blocks, probe)[0].shape[2]
        ids = 0 if reader.item_weights is None else torch.int32.itemsize
        return positions * (channels * model.base_encoder.dtype.itemsize + ids)
