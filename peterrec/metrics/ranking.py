"""Full ranking over the catalogue: where each target stands, and HR, NDCG and MRR from that.

A tie is counted by its expectation: a target with `greater` better candidates and `ties` equal ones is taken
to stand on each of the places `greater + 1 … greater + ties + 1` equally often. A constant scorer thus scores
what chance scores, whatever the order of the items in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.errors import DataError, DivergedError, SettingsError

Histories = tuple[NDArray[np.integer], NDArray[np.integer]]
"""Flat item rows and the number of them that each user has."""

CPU_CELLS = 2**21  # scores at a time that stay in a processor's caches
DEVICE_CELLS = 2**27  # half a gigabyte of float32: enough to fill an accelerator
FEWEST_USERS = 16  # below this a chunk re-reads the whole table for too few users


@dataclass(frozen=True)
class Ranks:
    """Where N targets stand: `greater`, `ties` (the target not counted) and `candidates`, each int64 (N,)."""

    greater: Tensor
    ties: Tensor
    candidates: Tensor

    def __len__(self) -> int:
        return len(self.greater)

    @staticmethod
    def joined(parts: "Sequence[Ranks]") -> "Ranks":
        """The ranks of several batches, one after the other."""
        return Ranks(
            torch.cat([part.greater for part in parts]),
            torch.cat([part.ties for part in parts]),
            torch.cat([part.candidates for part in parts]),
        )


def count_better(
    scores: Tensor, targets: Tensor, *, excluded: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """How many candidates stand above each target and how many beside it: two int64 (B,).

    `scores` (B, C); `targets` (B,) columns; `excluded` are (rows, columns) of cells that do not count,
    repeats allowed. The target itself is never excluded, and never counted: a target that its user has had
    before stays a candidate, for leaving it out would make a right answer impossible. Raises DivergedError on
    NaN.
    """
    greater, ties, _, broken = _count(scores, targets, excluded)
    _refuse_nan(broken)
    return greater, ties


def rank_targets(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    first_row: int = 3,
    histories: Histories | None = None,
    chunk: int | None = None,
) -> Ranks:
    """Rank targets (N,) among all rows of `table` (V, D) by `hidden` (N, D) · table (+ `bias` (V,)).

    See `rank_scores` for the rest. Scores are computed in float32 at least, since half precision makes ties.
    """
    kind = torch.promote_types(torch.promote_types(hidden.dtype, table.dtype), torch.float32)
    hidden, items = hidden.detach(), table.detach().to(kind).T
    offset = None if bias is None else bias.detach().to(kind)

    def score(rows: slice) -> Tensor:
        part = hidden[rows].to(kind)
        return part @ items if offset is None else torch.addmm(offset, part, items)

    return rank_scores(score, targets, num_rows=len(table), first_row=first_row, histories=histories, chunk=chunk)


@torch.no_grad()
def rank_scores(
    score: Callable[[slice], Tensor],
    targets: Tensor,
    *,
    num_rows: int,
    first_row: int = 3,
    histories: Histories | None = None,
    chunk: int | None = None,
) -> Ranks:
    """Rank targets (N,) by any scorer: `score(users)` gives the (B, V) scores of a slice of the N users.

    Rows below `first_row` (padding, mask, TCL) are no candidates, nor are the items of `histories` (flat
    rows, lengths), except the target. `chunk` users are scored at a time, so that (chunk, V) is the only
    large buffer. Works on the device of `targets` and waits for it once. Raises DivergedError on NaN,
    DataError on a target that is no item.
    """
    assert chunk is None or chunk > 0
    cells = CPU_CELLS if targets.device.type == "cpu" else DEVICE_CELLS
    size = chunk or max(FEWEST_USERS, cells // num_rows)
    columns = targets.long() - first_row
    outside = (columns < 0) | (columns >= num_rows - first_row)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise DataError(
            f"The target of test row {row} is vocabulary row {int(targets[row])}, which is no item: items "
            f"have rows {first_row} to {num_rows - 1}. Prepare the data with this encoder's vocabulary."
        )
    offsets = None
    if histories is not None:
        assert len(histories[1]) == len(targets)
        offsets = np.concatenate([[0], np.cumsum(histories[1], dtype=np.int64)])
        assert offsets[-1] == len(histories[0])
    parts, broken = [], [torch.zeros(0, dtype=torch.bool, device=targets.device)]
    for start in range(0, len(targets), size):
        users = slice(start, min(start + size, len(targets)))
        excluded = None
        if histories is not None and offsets is not None:
            seen = histories[0][offsets[users.start] : offsets[users.stop]].astype(np.int64) - first_row
            owner = np.repeat(np.arange(users.stop - start), histories[1][users])
            items = seen >= 0  # special rows are no candidates already
            excluded = (_on(owner[items], targets), _on(seen[items], targets))
        *counts, bad = _count(score(users)[:, first_row:], columns[users], excluded)
        parts.append(Ranks(*counts))
        broken.append(bad)
    _refuse_nan(torch.cat(broken))
    empty = torch.zeros(0, dtype=torch.int64, device=targets.device)
    return Ranks.joined(parts) if parts else Ranks(empty, empty, empty)


def ranking_metrics(ranks: Ranks, *, ks: Sequence[int] = (5, 10, 20)) -> dict[str, NDArray[np.float64]]:
    """Each user's expected `hr@k`, `ndcg@k`, `mrr@k` for every k, and `mrr` over the whole ranking: (N,).

    With one relevant item, HR@k is also recall@k, and the ideal gain of NDCG is 1.
    """
    if wrong := [k for k in ks if k < 1]:
        raise SettingsError(f"Cut-offs of ranking metrics are at least 1, not {wrong[0]}.")
    above = ranks.greater.cpu().numpy()
    places = ranks.ties.cpu().numpy() + 1  # how many places the target may take
    last = above + places
    deepest = max([*ks, int(last.max(initial=1))])
    place = np.arange(1, deepest + 1, dtype=np.float64)
    reciprocal = np.concatenate([[0.0], np.cumsum(1 / place)])
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(place[: max(ks, default=1)] + 1))])
    metrics: dict[str, NDArray[np.float64]] = {}
    for k in ks:
        first, final = np.minimum(above, k), np.minimum(last, k)
        metrics[f"hr@{k}"] = (final - first) / places
        metrics[f"ndcg@{k}"] = (discount[final] - discount[first]) / places
        metrics[f"mrr@{k}"] = (reciprocal[final] - reciprocal[first]) / places
    metrics["mrr"] = (reciprocal[last] - reciprocal[above]) / places
    return metrics


def _count(
    scores: Tensor, targets: Tensor, excluded: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Greater, ties, candidates: int64 (B,); rows with NaN: bool (B,). Nothing waits for the device."""
    width = scores.shape[1]
    targets = targets.long()
    own = scores.gather(1, targets[:, None])
    greater = (scores > own).sum(1)
    ties = (scores == own).sum(1) - 1
    candidates = torch.full_like(greater, width)
    broken = scores.amax(1).isnan()  # amax passes NaN on and needs no buffer
    if excluded is not None and len(excluded[0]):
        cells = (excluded[0].long() * width + excluded[1].long()).sort().values
        rows, columns = cells // width, cells % width
        counts = columns != targets[rows]
        counts[1:] &= cells[1:] != cells[:-1]  # an item had twice is left out once
        values, limits = scores[rows, columns], own[rows, 0]
        greater.index_add_(0, rows, (counts & (values > limits)).long(), alpha=-1)
        ties.index_add_(0, rows, (counts & (values == limits)).long(), alpha=-1)
        candidates.index_add_(0, rows, counts.long(), alpha=-1)
    return greater, ties, candidates, broken


def _on(values: NDArray[np.int64], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, non_blocking=True)


def _refuse_nan(broken: Tensor) -> None:
    if bool(broken.any()):
        row = int(broken.nonzero()[0])
        raise DivergedError(
            f"The scores of test row {row} are not numbers (NaN): the model has diverged. Train again with a "
            "lower learning rate, or evaluate an earlier checkpoint."
        )
