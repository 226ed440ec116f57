"""What early stopping watches where nothing but users is compared: what two halves of a history say of each other."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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
# the fewest users of whom a figure says something: among ten users everybody is found
FEWEST = {f"match@{NEAREST}": NEAREST + 1, "bag_log_likelihood": 2}
MOST_KEPT_OUT = 10  # one in so many training users may be watched instead of trained on


@dataclass(frozen=True)
class WatchedUsers:
    """The users whose halves are compared: rows of the validation part, and which rows of the training part they are
    (`kept_out`), where nothing shall be learnt from their views."""

    rows: NDArray[np.int64]
    kept_out: NDArray[np.int64]


def choose_watched(
    train: Sequences, validation: Sequences, *, figure: str | None, most: int, keep_out: bool, seed: int
) -> WatchedUsers:
    """At most `most` users of `validation` with two events, drawn by `seed`.

    In a split by time or by position a user's validation history is the training history. With `keep_out` such users
    are at most a tenth of those of `train` with two events, and stand in `kept_out`; users are told apart by their ids.
    Raises DataError where `figure` is to be watched and says nothing of so few users.
    """
    rows = np.random.default_rng((seed, 3)).permutation(eligible(validation.lengths))
    kept_out = np.zeros(0, dtype=np.int64)
    if keep_out:
        shared = _among(validation, train.users.array)[rows]
        rows = rows[~shared | (np.cumsum(shared) <= len(eligible(train.lengths)) // MOST_KEPT_OUT)][:most]
        kept_out = np.flatnonzero(_among(train, validation.users.array.take(rows)))
    rows = np.sort(rows[:most])
    if figure is not None and len(rows) < FEWEST[figure]:
        raise DataError(
            f"Early stopping watches {figure}, which says nothing of fewer than {FEWEST[figure]} users, and "
            f"{len(rows)} can be watched: validation users with two events, at most training.validation_users = "
            f"{most:,}, and at most one in {MOST_KEPT_OUT} of the training users. Prepare a log of more users, or set "
            "objective.watch=ndcg@10."
        )
    return WatchedUsers(rows, kept_out)


def _among(sequences: Sequences, ids: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which users of a part `(N,)` are among those ids."""
    options = pc.SetLookupOptions(value_set=ids)
    return pc.call_function("is_in", [sequences.users.array], options).to_numpy()


class UserMatching:
    """Two disjoint random halves of the histories `rows` of `sequences`, the same in every epoch; needs no labels.

    Histories have two events at least.
    """

    def __init__(self, sequences: Sequences, *, rows: NDArray[np.integer], most_events: int, seed: int) -> None:
        rng = np.random.default_rng((seed, 8))
        self._views = draw_views(sequences, rows, kind="halves", most=most_events, crop_share=1.0, rng=rng)

    def measure(self, encoder: UserEncoder, *, bag: BagOutput | None = None) -> dict[str, float]:
        """`match@10`: how often a user's vector from one half is among the ten nearest, by cosine, to the other's.

        And, with the `bag` that scores items, `bag_log_likelihood`: of an item of one half, given the other half.
        A figure that says nothing of so few users is left out.
        """
        matched = self._views.users >= FEWEST[f"match@{NEAREST}"]
        scored = bag is not None and self._views.users >= FEWEST["bag_log_likelihood"]
        if not matched and not scored:
            return {}
        device = next(encoder.parameters()).device
        positions = POSITIONS.get(device.type, 2**18)
        found = {}
        with torch.no_grad():
            vectors = encode_views(encoder, self._views, positions=positions, device=device)
            if matched:
                found[f"match@{NEAREST}"] = matching_recall(*vectors.chunk(2), k=NEAREST)
            if scored:
                assert bag is not None
                batch = BagBatch.of(self._views).to(device)
                found["bag_log_likelihood"] = -float(bag.loss(vectors, batch, encoder=encoder))
        return found
