"""The test of a cold start: the target events that are ranked, and what one scorer makes of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.target_events import earlier_targets, target_counts
from peterrec.data.vocabulary import FIRST_ITEM
from peterrec.errors import DataError
from peterrec.metrics.catalogue_use import CatalogueUse, long_tail
from peterrec.metrics.intervals import RankingRows
from peterrec.metrics.ranking import Histories, rank_scores, ranking_metrics
from peterrec.metrics.sampled_candidates import sampled_hit_rate

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scorer = Callable[[slice], Tensor]
"""The scores (b, W) of a slice of the test examples, in float32 at least; special rows may hold anything finite."""

KS = (10, 5, 20)
LISTED, NEGATIVES = 10, 100
MAIN = f"ndcg@{LISTED}"
COVERAGE, LONG_TAIL = f"coverage@{LISTED}", f"long_tail@{LISTED}"
SAMPLED = f"hr@{LISTED} ({NEGATIVES} sampled negatives; not comparable)"


@dataclass(frozen=True)
class Measured:
    """What one scorer makes of one test: figures of each user (U,), `coverage` of all, expected `places` (n,).

    `users` (U,) are numbers in the paired log, in order; `places` count from 1, over the examples.
    """

    users: Ints
    values: dict[str, Floats]
    coverage: float
    places: Floats

    def rows(self) -> RankingRows:
        """The figures of each user, for intervals and gains."""
        return RankingRows(self.users, self.values)


@dataclass(frozen=True)
class ColdStartTest:
    """Target events to be ranked: their `users` (n,), `targets` (n,), and rows `seen` that are no candidates.

    `tail` (W,) marks the long tail of the catalogue by the training users' events.
    """

    users: Ints
    targets: Ints
    tail: NDArray[np.bool_]
    seen: Histories | None = None

    @classmethod
    def of(cls, pairs: PairedLogs, events: Ints, *, trained: Ints, mixed: bool = False) -> "ColdStartTest":
        """The test of target `events` (n,) of a paired log.

        `trained` (U,) are the users whose events say what the long tail is; where the model reads a `mixed` history,
        the target items that it shows are no candidates. Raises DataError where there are no events.
        """
        if not len(events):
            raise DataError(
                f"{pairs.folder}: no target event is left to test; take more users, or a smaller fewest_source."
            )
        counts = target_counts(pairs, trained)
        return cls(
            users=pairs.owner[events],
            targets=pairs.item[events].astype(np.int64),
            tail=long_tail(counts, first_row=FIRST_ITEM),
            seen=earlier_targets(pairs, events) if mixed else None,
        )

    def __len__(self) -> int:
        return len(self.targets)

    def measure(self, score: Scorer, *, device: torch.device | str = "cpu") -> Measured:
        """Ranks every target among the whole catalogue, each block of examples being scored once.

        `score` answers on `device`. Ties count by their expectation; users weigh the same, however many examples they
        have. Raises DivergedError where a score is not a number.
        """
        use = CatalogueUse(self.tail, k=LISTED, first_row=FIRST_ITEM)
        offsets = None if self.seen is None else np.concatenate([[0], np.cumsum(self.seen[1], dtype=np.int64)])

        def scored(rows: slice) -> Tensor:
            scores = score(rows)
            use.add(scores, excluded=self._excluded(rows, offsets, device))
            return scores

        targets = torch.from_numpy(self.targets).to(device)
        ranks = rank_scores(scored, targets, num_rows=len(self.tail), first_row=FIRST_ITEM, histories=self.seen)
        values = ranking_metrics(ranks, ks=KS)
        values[LONG_TAIL] = use.tail_shares()
        values[SAMPLED] = sampled_hit_rate(ranks, k=LISTED, negatives=NEGATIVES)
        users, of_example, counts = np.unique(self.users, return_inverse=True, return_counts=True)
        mean = {name: np.bincount(of_example, weights=value) / counts for name, value in values.items()}
        places = ranks.greater.cpu().numpy() + 1 + ranks.ties.cpu().numpy() / 2
        return Measured(users, mean, use.coverage(), places)

    def _excluded(self, rows: slice, offsets: Ints | None, device: torch.device | str) -> tuple[Tensor, Tensor] | None:
        """The cells of a block that are no candidates: all that was seen, but never the target itself."""
        if self.seen is None or offsets is None:
            return None
        columns = self.seen[0][offsets[rows.start] : offsets[rows.stop]].astype(np.int64)
        owners = np.repeat(np.arange(rows.stop - rows.start), self.seen[1][rows])
        counts = columns != self.targets[rows][owners]
        return torch.from_numpy(owners[counts]).to(device), torch.from_numpy(columns[counts]).to(device)
