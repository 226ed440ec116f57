"""Exact top-k: the best items of a large table for many vectors, without ever holding all scores.

The table is scored in chunks that stay in a processor's caches. Each query remembers the score of its k-th best item;
of a chunk, only the maxima of groups of 64 items are looked at, and only groups that beat that score are opened.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from peterrec.data.vocabulary import FIRST_ITEM, PAD
from peterrec.errors import DivergedError
from peterrec.top_k_inputs import Rows, check_sizes, rows_on_host, whole_numbers

GROUP = 64  # items whose maximum is taken at once
CELLS = {"cpu": 2**19}  # scores at a time, that stay in a processor's caches
QUERIES = {"cpu": 256}
MANY_CELLS, MANY_QUERIES = 2**27, 4096  # half a gigabyte of float32: enough to fill an accelerator


@torch.no_grad()
def top_items(
    vectors: Tensor,
    table: Tensor,
    *,
    k: int,
    first_row: int = FIRST_ITEM,
    excluded: tuple[Rows, Rows] | None = None,
    allowed: Rows | None = None,
    blocked: Rows | None = None,
    bias: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k items with the highest `vectors` `(N, D)` · `table` `(V, D)` (+ `bias` `(V,)`): items, scores `(N, k)`.

    Items are rows of the table (int64), best first, of equal ones the lower row first, whatever the chunks. (Scores of
    different chunk sizes may differ in the last bit, where the matrix product does.) Rows below `first_row` are no
    candidates; nor, for each query, are its own rows of `excluded` (flat rows, number of each query); with `allowed`
    `(n,)` only those rows are, and none of `blocked` `(n,)`. A score of -inf is no candidate either. Where there are
    fewer than k, items end with PAD and scores with -inf. Scores are computed in float32 at least, `chunk` items at a
    time, by default as many as the caches hold; works on the device of `table`, and waits for it a few times a chunk.

    Raises SettingsError for wrong sizes, DataError for rows outside the table, DivergedError for a score of NaN.
    """
    if excluded is not None:
        excluded = (
            rows_on_host(excluded[0], len(table), "excluded"),
            whole_numbers(excluded[1], "the numbers of excluded"),
        )
    check_sizes(vectors, table, bias, k=k, first_row=first_row, chunk=chunk, excluded=excluded)
    device = table.device
    kind = torch.promote_types(torch.promote_types(vectors.dtype, table.dtype), torch.float32)
    catalogue = _Catalogue(table, bias, kind, first_row=first_row, allowed=allowed, blocked=blocked)
    queries = vectors.detach().to(device, kind)
    at_once = QUERIES.get(device.type, MANY_QUERIES)
    offsets = None
    if excluded is not None:
        offsets = np.concatenate([[0], np.cumsum(excluded[1], dtype=np.int64)])
    items = torch.full((len(queries), k), PAD, dtype=torch.long, device=device)
    scores = torch.full((len(queries), k), -torch.inf, dtype=kind, device=device)
    broken = torch.zeros(len(queries), dtype=torch.bool, device=device)
    with torch.autocast(device.type, enabled=False):
        for start in range(0, len(queries), at_once):
            part = slice(start, min(start + at_once, len(queries)))
            cells = None
            if excluded is not None and offsets is not None:
                own = excluded[0][offsets[part.start] : offsets[part.stop]]
                owners = np.repeat(np.arange(part.stop - part.start), excluded[1][part])
                cells = catalogue.cells(own, owners)
            best = _Best(items[part], scores[part], broken[part])
            _score_all(queries[part], catalogue, best, cells, chunk=chunk)
    if bool(broken.any()):
        raise DivergedError(
            f"The scores of query {int(broken.nonzero()[0])} are not numbers (NaN): its vector, the table or the bias "
            "is broken. Train again with a lower learning rate, or take an earlier checkpoint."
        )
    return items, scores


class _Catalogue:
    """The candidates, in the order of their rows: columns 0 … C − 1."""

    def __init__(
        self,
        table: Tensor,
        bias: Tensor | None,
        kind: torch.dtype,
        *,
        first_row: int,
        allowed: Rows | None,
        blocked: Rows | None,
    ):
        self.table, self.bias, self.kind, self.first_row = table, bias, kind, first_row
        out = np.unique(rows_on_host(blocked, len(table), "blocked")) if blocked is not None else np.zeros(0, np.int64)
        self.rows: NDArray[np.int64] | None = None  # None: all from `first_row`
        self.blocked = out[out >= first_row] - first_row  # columns
        self._picked: Tensor | None = None
        if allowed is not None:
            rows = np.setdiff1d(rows_on_host(allowed, len(table), "allowed"), out)
            self.rows = rows[rows >= first_row]
            self.blocked = self.blocked[:0]
            self._picked = torch.from_numpy(self.rows).to(table.device)

    def __len__(self) -> int:
        return max(0, len(self.table) - self.first_row) if self.rows is None else len(self.rows)

    def score(self, queries: Tensor, start: int, stop: int, out: Tensor) -> None:
        """Scores of the columns `[start, stop)` for `queries` `(N, D)`, written to `out` `(stop − start, N)`."""
        rows = slice(start + self.first_row, stop + self.first_row)
        own = self.table[rows] if self._picked is None else self.table.index_select(0, self._picked[start:stop])
        own = own.detach().to(self.kind)
        if self.bias is None:
            torch.mm(own, queries.t(), out=out)
            return
        bias = self.bias[rows] if self._picked is None else self.bias.index_select(0, self._picked[start:stop])
        torch.addmm(bias.detach().to(self.kind).unsqueeze(1), own, queries.t(), out=out)

    def rows_of(self, columns: Tensor) -> Tensor:
        """The rows of the table that those columns stand for."""
        return columns + self.first_row if self._picked is None else self._picked[columns]

    def cells(self, rows: NDArray[np.int64], owners: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor]:
        """Rows that are excluded, each with its query, as columns and queries by rising column (host, device)."""
        if self.rows is None:
            there, columns = rows >= self.first_row, rows - self.first_row
        else:
            columns = np.searchsorted(self.rows, rows)
            there = np.zeros(len(rows), bool)
            inside = columns < len(self.rows)
            there[inside] = self.rows[columns[inside]] == rows[inside]
        order = np.argsort(columns[there], kind="stable")
        columns, owners = columns[there][order], owners[there][order]
        return columns, _on(columns, self.table.device), _on(owners, self.table.device)


class _Best:
    """The best k of each of N queries so far: views of `items` and `scores` `(N, k)`, best first, and of `broken`."""

    def __init__(self, items: Tensor, scores: Tensor, broken: Tensor):
        self.items, self.scores, self.broken = items, scores, broken

    def offer(self, scores: Tensor, catalogue: _Catalogue, start: int) -> None:
        """Takes from the scores `(C, N)` of the columns from `start` on what belongs among the best.

        Columns come in rising order, so that a later one must beat the k-th best, and not only equal it.
        """
        k = self.scores.shape[1]
        grouped = scores.view(-1, GROUP, scores.shape[1])
        peaks = grouped.amax(1).t()  # (N, groups); NaN passes
        self.broken |= peaks.isnan().any(1)
        worst = self.scores[:, -1:]
        queries, groups = (peaks > worst).nonzero(as_tuple=True)
        least = None
        if len(queries) > k * len(peaks) and len(scores) >= k:
            # as at first, when all beats what there is: then the k-th best here is a bound too
            least = scores.topk(k, dim=0).values[-1:].t()
            queries, groups = ((peaks > worst) & (peaks >= least)).nonzero(as_tuple=True)
        if not len(queries):
            return
        opened = grouped[groups, :, queries]
        better = opened > worst[queries]
        if least is not None:
            better &= opened >= least[queries]
        found, inside = better.nonzero(as_tuple=True)  # by query, then by column
        columns = groups[found] * GROUP + inside + start
        self._merge(queries[found], catalogue.rows_of(columns), opened[found, inside])

    def _merge(self, queries: Tensor, rows: Tensor, scores: Tensor) -> None:
        """New candidates, by query and rising row; stable sorts keep the lower row first among equals."""
        k = self.scores.shape[1]
        order = scores.sort(descending=True, stable=True).indices
        order = order[queries[order].sort(stable=True).indices]
        queries, rows, scores = queries[order], rows[order], scores[order]
        changed, line, counts = queries.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(line), device=line.device) - (counts.cumsum(0) - counts)[line]
        first = place < k
        line, place = line[first], k + place[first]
        all_scores = torch.cat([self.scores[changed], self.scores.new_full((len(changed), k), -torch.inf)], dim=1)
        all_items = torch.cat([self.items[changed], self.items.new_full((len(changed), k), PAD)], dim=1)
        all_scores[line, place] = scores[first]
        all_items[line, place] = rows[first]
        all_scores, order = all_scores.sort(dim=1, descending=True, stable=True)
        self.scores[changed] = all_scores[:, :k]
        self.items[changed] = all_items.gather(1, order[:, :k])


def _score_all(
    queries: Tensor,
    catalogue: _Catalogue,
    best: _Best,
    cells: tuple[NDArray[np.int64], Tensor, Tensor] | None,
    *,
    chunk: int | None,
) -> None:
    """Offers the scores of all candidates to the best of `queries`, a chunk at a time."""
    size = chunk or max(GROUP, CELLS.get(queries.device.type, MANY_CELLS) // max(1, len(queries)))
    size = min(size, max(1, len(catalogue)))
    buffer = queries.new_empty(-(-size // GROUP) * GROUP, len(queries))
    for start in range(0, len(catalogue), size):
        stop = min(start + size, len(catalogue))
        scores = buffer[: -(-(stop - start) // GROUP) * GROUP]
        catalogue.score(queries, start, stop, scores[: stop - start])
        scores[stop - start :] = -torch.inf
        first, last = np.searchsorted(catalogue.blocked, (start, stop))
        if last > first:
            scores[_on(catalogue.blocked[first:last] - start, queries.device)] = -torch.inf
        if cells is not None:
            columns, on_device, owners = cells
            first, last = np.searchsorted(columns, (start, stop))
            if last > first:
                scores[on_device[first:last] - start, owners[first:last]] = -torch.inf
        best.offer(scores, catalogue, start)


def _on(values: NDArray[np.int64], device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)
