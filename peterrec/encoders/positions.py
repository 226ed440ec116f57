"""Which positions of a batch are valid, and what stands at the first and the last of each user."""

import torch
from torch import Tensor

from peterrec.data.vocabulary import PAD


def valid_positions(input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Where item rows `(B, L)` are no padding: not PAD, and not 0 in `attention_mask`; bool `(B, L)`."""
    valid = input_ids.ne(PAD)
    return valid if attention_mask is None else valid & attention_mask.bool()


def ending_together(input_ids: Tensor, valid: Tensor, *, positions: int) -> tuple[Tensor, Tensor]:
    """Shifts item rows `(B, L)` so that each user's last valid position is the last column; keeps `positions` columns.

    Returns the rows `(B, min(L, positions))`, PAD before a user's first, and where they are valid.
    """
    width = min(input_ids.shape[1], positions)
    places = last_valid(valid).unsqueeze(1) + torch.arange(1 - width, 1, device=valid.device)
    taken = places.clamp(min=0)
    valid = valid.gather(1, taken) & (places >= 0)
    return input_ids.gather(1, taken).masked_fill(~valid, PAD), valid


def state_at(states: Tensor, places: Tensor) -> Tensor:
    """States `(B, D)` at one position `(B,)` of each row; zero where the place is -1."""
    rows = torch.arange(states.shape[0], device=states.device)
    return states[rows, places.clamp(min=0)] * (places >= 0).to(states.dtype).unsqueeze(1)


def last_valid(valid: Tensor) -> Tensor:
    """The last valid position of each user `(B,)`, -1 where there is none."""
    positions = torch.arange(valid.shape[1], device=valid.device)
    return torch.where(valid.bool(), positions, -1).amax(dim=1)


def first_valid(valid: Tensor) -> Tensor:
    """The first valid position of each user `(B,)`, -1 where there is none."""
    length = valid.shape[1]
    positions = torch.arange(length, device=valid.device)
    first = torch.where(valid.bool(), positions, length).amin(dim=1)
    return torch.where(first == length, -1, first)
