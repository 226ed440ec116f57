"""What early stopping watches where nothing but users is compared: what two halves of a history say of each other."""

import numpy as np
import torch
from numpy.typing import NDArray

from peterrec.data.sequences import Sequences
from peterrec.data.views import draw_views, eligible
from peterrec.encoders.base import UserEncoder
from peterrec.errors import DataError
from peterrec.inference import POSITIONS
from peterrec.metrics.matching import matching_recall
from peterrec.objectives.bag import BagBatch, BagOutput
from peterrec.training.view_encoding import encode_views

NEAREST = 10


class UserMatching:
    """Two disjoint random halves of the histories `rows` of `sequences`, the same in every epoch; needs no labels.

    Users with one event are left out. Raises DataError where fewer than two are left.
    """

    def __init__(self, sequences: Sequences, *, rows: NDArray[np.integer], most_events: int, seed: int) -> None:
        rows = rows[eligible(sequences.lengths[rows])]
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} validation user(s) have two events, so that no two halves can find each other among "
                "users; prepare the log with another split, or set objective.watch=ndcg@10."
            )
        rng = np.random.default_rng((seed, 8))
        self._views = draw_views(sequences, rows, kind="halves", most=most_events, crop_share=1.0, rng=rng)

    def measure(self, encoder: UserEncoder, *, bag: BagOutput | None = None) -> dict[str, float]:
        """`match@10`: how often a user's vector from one half is among the ten nearest, by cosine, to the other's.

        And, with the `bag` that scores items, `bag_log_likelihood`: of an item of one half, given the other half.
        """
        device = next(encoder.parameters()).device
        positions = POSITIONS.get(device.type, 2**18)
        with torch.no_grad():
            vectors = encode_views(encoder, self._views, positions=positions, device=device)
            found = {f"match@{NEAREST}": matching_recall(*vectors.chunk(2), k=NEAREST)}
            if bag is not None:
                batch = BagBatch.of(self._views).to(device)
                found["bag_log_likelihood"] = -float(bag.loss(vectors, batch, encoder=encoder))
        return found
