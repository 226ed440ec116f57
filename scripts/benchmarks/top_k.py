"""The best items of many vectors among a large table, exactly."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.conditions import Conditions
from benchmarks.machine import Machine
from benchmarks.stopwatch import take_turns
from benchmarks.tables import Table
from peterrec.top_k import top_items

ROWS, CHANNELS, QUERIES, K = 1_000_000, 64, 64, 10
CHUNK = 8_192
FIRST_ITEM = 0  # all rows are candidates here

COLUMNS = {
    "who": ("how", ""),
    "ms": ("ms", ",.1f"),
    "ms_min": ("min", ",.1f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "times": ("times faster than mm + topk", ",.2f"),
}
WHOLE = "torch.mm, then torch.topk"


def chunked(vectors: Tensor, table: Tensor, *, k: int) -> tuple[Tensor, Tensor]:
    """`torch.topk` of each chunk's scores, then of what is left of all chunks: rows and scores `(N, k)`."""
    rows, scores = [], []
    for first in range(0, len(table), CHUNK):
        block = table[first : first + CHUNK]
        best = torch.topk(vectors @ block.t(), min(k, len(block)), dim=1)
        rows.append(best.indices + first)
        scores.append(best.values)
    best = torch.topk(torch.cat(scores, dim=1), k, dim=1)
    return torch.cat(rows, dim=1).gather(1, best.indices), best.values


def calls_of(vectors: Tensor, table: Tensor, *, k: int) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """Ways to the rows and scores `(N, k)`, by name."""

    def whole() -> tuple[Tensor, Tensor]:
        best = torch.topk(vectors @ table.t(), k, dim=1)
        return best.indices, best.values

    return {
        WHOLE: whole,
        f"the same in chunks of {CHUNK:,} rows": lambda: chunked(vectors, table, k=k),
        "peterrec.top_items": lambda: top_items(vectors, table, k=k, first_row=FIRST_ITEM),
    }


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """One table."""
    rows, channels, queries = (500, 16, 4) if conditions.quick else (ROWS, CHANNELS, QUERIES)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(rows, channels, generator=generator).to(conditions.device)
    vectors = torch.randn(queries, channels, generator=generator).to(conditions.device)
    with torch.inference_mode():
        timings = take_turns(calls_of(vectors, table, k=K), conditions)
    found = [
        {"who": name, **timing.figures(), "times": timings[WHOLE].median / timing.median}
        for name, timing in timings.items()
    ]
    yield Table(f"Top {K}", COLUMNS, found, [f"{rows:,} rows of {channels}, {queries} vectors, normal values."])
    machine.look("after the top k")
