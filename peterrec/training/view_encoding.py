"""User vectors of many views at once, with gradients, in bounded memory."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from peterrec.data.batches import cut
from peterrec.data.reading import WHOLE
from peterrec.data.upload import upload
from peterrec.data.views import Views
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import valid_positions
from peterrec.encoders.user_reading import pooled_users, reading_of

KEPT_BYTES = {"cpu": 2**30, "cuda": 2**33}  # what the states of all views may take until the gradients come
STATES_A_BLOCK = 8  # that a block keeps for them, about


def encode_views(encoder: UserEncoder, views: Views, *, positions: int | None, device: torch.device) -> Tensor:
    """The user vectors `(2U, D)` of all `views`, in their order, as the encoder's own reader gives them.

    Views of similar length are encoded together, at most `positions` (views × length) at a time (None: all at once).
    Where what the backward pass needs of all of them would take too much memory, each such piece is encoded without,
    and again when its gradient is there, under the same dropout: the gradients are those of one pass (Gao et al.,
    Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021).
    """
    reading = reading_of(encoder, encoder.reader, max_length=WHOLE)
    lengths = reading.events(views.lengths) + (reading.front is not None) + (reading.back is not None)
    order = np.argsort(-lengths, kind="stable")

    def vectors(input_ids: Tensor, places: Tensor | None) -> Tensor:
        valid = valid_positions(input_ids)
        return encoder.reader.mixed(pooled_users(encoder, encoder, encoder.reader, input_ids, valid, places=places))

    again = positions is not None and torch.is_grad_enabled() and _too_large(encoder, lengths, device=device)
    found = []
    for run in cut(lengths[order], positions=positions):
        rows = reading.rows(views, order[run])  # type: ignore[arg-type]  # it only asks for lengths and events
        input_ids = upload(torch.from_numpy(rows.ids), device)
        of_users = None if rows.places is None else upload(torch.from_numpy(rows.places), device)
        if again:
            found.append(checkpoint(vectors, input_ids, of_users, use_reentrant=False))
        else:
            found.append(vectors(input_ids, of_users))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return torch.cat(found).index_select(0, upload(torch.from_numpy(places), device))


def _too_large(encoder: UserEncoder, lengths: np.ndarray, *, device: torch.device) -> bool:
    state = encoder.config.hidden_size * encoder.dtype.itemsize
    wanted = int(lengths.sum()) * state * STATES_A_BLOCK * len(encoder.blocks)
    return wanted > KEPT_BYTES.get(device.type, KEPT_BYTES["cpu"])
