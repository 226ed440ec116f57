"""One new item a user: updating a remembered state beside encoding the history again."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.conditions import Conditions
from benchmarks.machine import Machine
from benchmarks.naive_nextitnet import NaiveNextItNet
from benchmarks.peterrec_step import encoder_of
from benchmarks.stopwatch import take_turns
from benchmarks.tables import Table
from benchmarks.workload import Workload
from peterrec.encoders.readout import read_users
from peterrec.encoders.user_state import UserState

BATCHES = (1, 256)
SHAPE = Workload(3_700, 50, 64, 1)
TITLE = "One new item a user"
COLUMNS = {
    "users": ("users", ",.0f"),
    "who": ("how", ""),
    "ms": ("ms", ",.3f"),
    "ms_min": ("min", ",.3f"),
    "spread": ("spread", ".0%"),
    "n": ("n", ".0f"),
    "rate": ("users/s", ",.0f"),
    "times": ("× encoding again", ",.1f"),
    "over_naive": ("× naive", ",.1f"),
}
AGAIN = "peterrec, encoding again"
PRUNED = "peterrec, encoding again what the last position reads"
UPDATE = "peterrec, updating the state"
NAIVE = "naive torch, encoding again"


def calls_of(workload: Workload, conditions: Conditions) -> dict[str, Callable[[], Tensor]]:
    """Ways to the user vectors `(B, D)` after one more item, by name; the update remembers its item each time."""
    encoder = encoder_of(workload, readout="last")
    encoder.to(torch.device(conditions.device))  # type: ignore[arg-type]  # transformers hides its signature
    naive = NaiveNextItNet(workload.vocabulary, workload.channels, workload.dilations).to(conditions.device).eval()
    ids = torch.from_numpy(workload.histories(workload.users)).to(conditions.device)
    history, after = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    item = ids[:, -1].contiguous()
    valid = torch.ones_like(after, dtype=torch.bool)
    state = UserState.of(encoder, history)

    def update() -> Tensor:
        state.append(item)
        return state.vectors()

    return {
        NAIVE: lambda: naive(after)[:, -1],
        AGAIN: lambda: encoder(after).user_vector,
        PRUNED: lambda: read_users(encoder, after, valid, readout="last", reach=encoder.reach("last")),
        UPDATE: update,
    }


def run(conditions: Conditions, machine: Machine) -> Iterator[Table]:
    """One table over both batches."""
    rows: list[dict[str, Any]] = []
    shape = Workload(300, 12, 16, 1, 4) if conditions.quick else SHAPE
    for users in BATCHES[:1] + ((4,) if conditions.quick else BATCHES[1:]):
        workload = Workload(shape.vocabulary, shape.length, shape.channels, users, shape.convolutions)
        with torch.inference_mode():
            timings = take_turns(calls_of(workload, conditions), conditions)
        for name, timing in timings.items():
            rows.append(
                {
                    "users": users,
                    "length": shape.length,
                    "who": name,
                    **timing.figures(),
                    "rate": users / timing.median,
                    "times": timings[AGAIN].median / timing.median,
                    "times_best": timings[AGAIN].least / timing.least,
                    "over_naive": timings[NAIVE].median / timing.median,
                }
            )
    notes = [f"L = {shape.length}, D = {shape.channels}, {shape.convolutions} convolutions, the last position's state."]
    yield Table(TITLE, COLUMNS, rows, notes)
    machine.look("after the updates of users")
