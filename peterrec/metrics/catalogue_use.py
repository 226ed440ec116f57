"""How much of a catalogue is recommended to anyone, and how many recommendations go to its long tail."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

HEAD_SHARE = 0.8


def long_tail(counts: ArrayLike, *, first_row: int = 3, share: float = HEAD_SHARE) -> NDArray[np.bool_]:
    """Which rows (W,) are items outside the head: the fewest items that hold `share` of the `counts` (W,).

    Of equally frequent items the one in the lower row belongs to the head first. Rows below `first_row` are no items;
    without any count all items are tail.
    """
    counts = np.asarray(counts, dtype=np.float64)[first_row:]
    order = np.argsort(-counts, kind="stable")
    held_before = np.concatenate([[0.0], np.cumsum(counts[order])[:-1]])
    tail = np.ones(first_row + len(counts), dtype=np.bool_)
    tail[:first_row] = False
    tail[first_row + order[held_before < share * counts.sum()]] = False
    return tail


class CatalogueUse:
    """Counts which of the rows (W,) are among the `k` best of some list; `tail` (W,) marks the long tail.

    Everything stays on the device of the scores until a figure is asked for.
    """

    def __init__(self, tail: ArrayLike, *, k: int = 10, first_row: int = 3) -> None:
        assert k > 0
        self.k = k
        self.first_row = first_row
        self._tail = torch.from_numpy(np.asarray(tail, dtype=np.bool_)[first_row:].copy())
        self._counts: Tensor | None = None
        self._shares: list[Tensor] = []

    @torch.no_grad()
    def add(self, scores: Tensor, *, excluded: tuple[Tensor, Tensor] | None = None) -> None:
        """Count the best `k` rows of each of the `scores` (B, W); of equal ones the lower row is listed.

        `excluded` are (rows, columns of `scores`) of cells that are no candidates, nor is a score of -inf.
        """
        if excluded is not None and len(excluded[0]):
            scores = scores.clone()
            scores[excluded[0], excluded[1]] = -torch.inf
        items = scores[:, self.first_row :]
        listed = _best(items, min(self.k, items.shape[1]))
        if self._counts is None:
            self._tail = self._tail.to(scores.device)
            self._counts = torch.zeros(items.shape[1], dtype=torch.int64, device=scores.device)
        self._counts += listed.sum(0)
        self._shares.append((listed & self._tail).sum(1) / listed.sum(1).clamp(min=1))

    def counts(self) -> NDArray[np.int64]:
        """In how many lists each row (W,) stands."""
        found = np.zeros(self.first_row + len(self._tail), dtype=np.int64)
        if self._counts is not None:
            found[self.first_row :] = self._counts.cpu().numpy()
        return found

    def coverage(self) -> float:
        """The share of the items that stand in at least one list."""
        return float(np.count_nonzero(self.counts()) / max(1, len(self._tail)))

    def tail_shares(self) -> NDArray[np.float64]:
        """Which share of each list (N,) is long tail."""
        return torch.cat(self._shares).double().cpu().numpy() if self._shares else np.zeros(0)


def _best(items: Tensor, k: int) -> Tensor:
    """Which of the scores (B, C) are among the k best of their row, those above -inf: bool (B, C)."""
    worst = items.topk(k, dim=1).values[:, -1:]
    better = items > worst
    equal = items == worst
    # `topk` takes any of equal scores; here it is always the first ones
    listed = better | (equal & (equal.cumsum(1) <= k - better.sum(1, keepdim=True)))
    return listed & (items > -torch.inf)
