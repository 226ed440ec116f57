"""The states of users above the blocks of an encoder that stand still in training, computed once."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import plan, tails
from peterrec.data.sequences import Sequences
from peterrec.data.upload import upload
from peterrec.inference import POSITIONS, last_events
from peterrec.model import TaskModel


class StandingStates:
    """States `(P, D)` of all valid positions of the users `rows` `(N,)`, one user after the other.

    Only the positions that the task's readout depends on are kept. Memory and offsets are flat, so that long and short
    histories stand side by side without padding.
    """

    def __init__(
        self,
        model: TaskModel,
        histories: Sequences,
        *,
        rows: NDArray[np.integer],
        max_length: int,
        blocks: int,
        device: torch.device,
    ):
        self.blocks = blocks
        self.lengths = kept_positions(model, histories, rows=rows, max_length=max_length, blocks=blocks)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self._end_together = model.base_encoder.reach(model.readout) is not None
        self._flat = self._compute(model, histories, rows, max_length, device)

    def _compute(
        self,
        model: TaskModel,
        histories: Sequences,
        rows: NDArray[np.integer],
        max_length: int,
        device: torch.device,
    ) -> Tensor:
        total = int(self.lengths.sum())
        events = model.events_read(max_length)
        spans = tails(histories.lengths[rows], max_length=events).lengths
        flat: Tensor | None = None
        was_training = model.training
        model.eval()
        try:
            for batch in plan(spans, positions=POSITIONS.get(device.type, 2**18), shuffle=False):
                ids = last_events(histories, rows[batch], max_length=events, readout=model.readout)
                states, valid = model.states_above(self.blocks, torch.from_numpy(ids).to(device))
                if flat is None:
                    flat = states.new_empty(total, states.shape[2])
                flat[self._places(batch, device)] = states[valid]
        finally:
            model.train(was_training)
        return torch.zeros(0, model.config.hidden_size, device=device) if flat is None else flat

    def _places(self, users: NDArray[np.integer], device: torch.device) -> Tensor:
        """Where the positions of `users` stand in the flat memory, one user after the other."""
        lengths = self.lengths[users]
        before = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(self.starts[users] - before, lengths)
        return torch.from_numpy(places).to(device)

    def batch(self, users: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        """States `(B, L, D)` of `users` `(B,)` (places in `rows`), and where they are valid `(B, L)`.

        The padding stands where it would in a batch of item rows, so that dropout draws for the same positions: on the
        left when the readout takes the last position, else on the right.
        """
        device = self._flat.device
        lengths = upload(torch.from_numpy(self.lengths[users]), device)
        starts = upload(torch.from_numpy(self.starts[users]), device)
        width = max(int(self.lengths[users].max(initial=0)), 1)
        events = torch.arange(width, device=device).unsqueeze(1)  # (L, B) below: memory is time-major
        if self._end_together:
            events = events - (width - lengths)
        valid = (events >= 0) & (events < lengths)
        places = torch.where(valid, starts + events, 0)
        if not len(self._flat):  # no user has an event
            states = self._flat.new_zeros(width, len(users), self._flat.shape[1])
        else:
            states = self._flat.index_select(0, places.reshape(-1)).view(width, len(users), -1)
        return states.transpose(0, 1), valid.transpose(0, 1)


def kept_positions(
    model: TaskModel, histories: Sequences, *, rows: NDArray[np.integer], max_length: int, blocks: int
) -> NDArray[np.int64]:
    """How many states above the first `blocks` blocks are kept of each user of `rows` `(N,)`."""
    events = np.minimum(histories.lengths[rows], model.events_read(max_length)).astype(np.int64)
    events += model.readout == "tcl"
    reach = model.base_encoder.reach(model.readout, first_block=blocks)
    return events if reach is None else np.minimum(events, reach)
