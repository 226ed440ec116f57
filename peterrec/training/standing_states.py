"""The states of users above the blocks of an encoder that stand still in training, computed once."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.batches import plan
from peterrec.data.reading import places_of
from peterrec.data.sequences import Sequences
from peterrec.data.upload import upload
from peterrec.encoders.user_reading import reach_of
from peterrec.inference import POSITIONS
from peterrec.model import TaskModel


class StandingBatch(NamedTuple):
    """States `(N, L, C)` of the rows of B users, and where they are valid `(N, L)`.

    `input_ids` `(N, L)` where the readout reads them, and `places` `(B, M)` where histories are cut into windows, as
    `peterrec.data.reading.Rows` has them.
    """

    states: Tensor
    valid: Tensor
    input_ids: Tensor | None = None
    places: Tensor | None = None


class StandingStates:
    """States `(P, C)` of all valid positions of the users `rows` `(N,)`, one window of one user after the other.

    C = D channels above the first `blocks` blocks; above all blocks those of the layers that the readout reads, side
    by side. Only the positions that the task's readout depends on are kept. Memory and offsets are flat, so that long
    and short histories stand side by side without padding.
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
        self._reading = model.reading(max_length)
        self._end_together = reach_of(model.base_encoder, model.reader) is not None
        self._windows = kept_positions(model, histories, rows=rows, max_length=max_length, blocks=blocks)
        self._starts = np.cumsum(self._windows) - self._windows
        owners = self._reading.cuts(histories.lengths[rows]).owners
        self._count = np.bincount(owners, minlength=len(rows))
        self._first = np.cumsum(self._count) - self._count
        longest = np.zeros(len(rows), dtype=np.int64)
        np.maximum.at(longest, owners, self._windows)
        self.lengths = longest * self._count  # positions that a user takes in a batch
        self._flat, self._ids = self._compute(model, histories, rows, device)

    def _compute(
        self, model: TaskModel, histories: Sequences, rows: NDArray[np.integer], device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        total = int(self._windows.sum())
        flat: Tensor | None = None
        ids = torch.zeros(total, dtype=torch.int32, device=device) if model.reader.item_weights is not None else None
        was_training = model.training
        model.eval()
        above_all = self.blocks == len(model.base_encoder.blocks)
        try:
            spans = self._reading.events(histories.lengths[rows])
            for batch in plan(spans, positions=POSITIONS.get(device.type, 2**18), shuffle=False):
                given = torch.from_numpy(self._reading.rows(histories, rows[batch]).ids).to(device)
                places = self._positions(self._windows_of(batch), device)
                states, valid = model.chosen_states(given) if above_all else model.states_above(self.blocks, given)
                if flat is None:
                    flat = states.new_empty(total, states.shape[2])
                flat[places] = states[valid]
                if ids is not None:
                    ids[places] = given[valid].int()
        finally:
            model.train(was_training)
        return torch.zeros(0, model.config.hidden_size, device=device) if flat is None else flat, ids

    def _windows_of(self, users: NDArray[np.integer]) -> NDArray[np.int64]:
        """The windows of `users`, one user after the other, oldest first."""
        count = self._count[users]
        before = np.cumsum(count) - count
        return np.arange(count.sum()) + np.repeat(self._first[users] - before, count)

    def _positions(self, windows: NDArray[np.integer], device: torch.device) -> Tensor:
        """Where the positions of `windows` stand in the flat memory, one window after the other."""
        lengths = self._windows[windows]
        before = np.cumsum(lengths) - lengths
        places = np.arange(lengths.sum()) + np.repeat(self._starts[windows] - before, lengths)
        return torch.from_numpy(places).to(device)

    def batch(self, users: NDArray[np.integer]) -> StandingBatch:
        """The states of `users` `(B,)` (places in `rows`).

        The padding stands where it would in a batch of item rows, so that dropout draws for the same positions: on the
        left when the readout takes the last position, else on the right.
        """
        device = self._flat.device
        windows = self._windows_of(users)
        lengths = upload(torch.from_numpy(self._windows[windows]), device)
        starts = upload(torch.from_numpy(self._starts[windows]), device)
        width = max(int(self._windows[windows].max(initial=0)), 1)
        events = torch.arange(width, device=device).unsqueeze(1)  # (L, B) below: memory is time-major
        if self._end_together:
            events = events - (width - lengths)
        valid = (events >= 0) & (events < lengths)
        places = torch.where(valid, starts + events, 0)
        ids = None
        if not len(self._flat):  # no user has an event
            states = self._flat.new_zeros(width, len(windows), self._flat.shape[1])
            ids = None if self._ids is None else valid.int().transpose(0, 1)
        else:
            states = self._flat.index_select(0, places.reshape(-1)).view(width, len(windows), -1)
            if self._ids is not None:
                found = self._ids.index_select(0, places.reshape(-1)).view(width, -1)
                ids = torch.where(valid, found, 0).transpose(0, 1)
        of_users = places_of(np.repeat(np.arange(len(users)), self._count[users]), users=len(users))
        return StandingBatch(
            states.transpose(0, 1),
            valid.transpose(0, 1),
            ids,
            None if of_users is None else upload(torch.from_numpy(of_users), device),
        )


def kept_positions(
    model: TaskModel, histories: Sequences, *, rows: NDArray[np.integer], max_length: int, blocks: int
) -> NDArray[np.int64]:
    """How many states above the first `blocks` blocks are kept of each window of the users `rows` `(N,)`."""
    lengths = model.reading(max_length).cuts(histories.lengths[rows]).lengths
    reach = reach_of(model.base_encoder, model.reader, first_block=blocks)
    return lengths if reach is None else np.minimum(lengths, reach)
