"""The rows that `peterrec recommend` writes: a user's best items below each other, in blocks that fit into memory."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.sequences import Sequences
from peterrec.data.vocabulary import FIRST_ITEM, Vocabulary
from peterrec.inference import whole_histories
from peterrec.recommender import Recommended, Recommender

# the users of a row group, their items and events: what is in memory together
BLOCK_USERS, BLOCK_ITEMS, BLOCK_EVENTS = 20_000, 2**20, 2**22
SCHEMA = pa.schema(
    {
        "user": pa.string(),
        "rank": pa.int32(),
        "item": pa.string(),
        "score": pa.float64(),
        "reason": pa.string(),
    }
)
REASONS = pa.array(["history", "popularity"])


class RecommendedRows:
    """The users of `histories` in blocks, and each block's table (`SCHEMA`).

    What users have had by `past`, if given, is no candidate for them; `allowed` and `blocked` are rows of the
    catalogue.
    """

    def __init__(
        self,
        recommender: Recommender,
        histories: Sequences,
        past: Sequences | None,
        *,
        k: int,
        allowed: NDArray[np.int64] | None = None,
        blocked: NDArray[np.int64] | None = None,
    ) -> None:
        self.recommender, self.histories, self.past, self.k = recommender, histories, past, k
        self.allowed, self.blocked = allowed, blocked

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """All users in order; a block has one at least."""
        users = max(1, min(BLOCK_USERS, BLOCK_ITEMS // self.k))
        events = np.cumsum(self.histories.lengths + (0 if self.past is None else self.past.lengths))
        first = 0
        while first < len(events):
            before = int(events[first - 1]) if first else 0
            fitting = int(np.searchsorted(events, before + BLOCK_EVENTS, side="right"))
            last = min(max(fitting, first + 1), first + users)
            yield np.arange(first, last)
            first = last

    def table(self, rows: NDArray[np.int64]) -> pa.Table:
        """The items of the users `rows`, as the output has them."""
        seen = None if self.past is None else whole_histories(self.past, rows)
        found = self.recommender.recommend(
            self.histories, rows=rows, k=self.k, seen=seen, allowed=self.allowed, blocked=self.blocked
        )
        return _table(found, self.histories.users.array.take(pa.array(rows)), self.recommender.catalogue)


def _table(found: Recommended, users: pa.ChunkedArray, catalogue: Vocabulary) -> pa.Table:
    counts = found.counts
    there = np.arange(found.items.shape[1]) < counts[:, None]
    owners = np.repeat(np.arange(len(counts)), counts)
    columns = [
        users.take(pa.array(owners)),
        pa.array(np.nonzero(there)[1] + 1, pa.int32()),
        catalogue.items.take(pa.array(found.items[there] - FIRST_ITEM)),
        pa.array(found.scores[there]),
        REASONS.take(pa.array(found.by_popularity.astype(np.int8)[owners])),
    ]
    return pa.table(columns, schema=SCHEMA)
