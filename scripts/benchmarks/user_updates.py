"""One new item a user: updating a remembered state beside encoding the history again."""

from collections.abc import Callable, Iterator
from functools import partial
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
from peterrec import catalogue
from peterrec.adaptation import adapt
from peterrec.encoders.base import UserEncoder
from peterrec.encoders.readout import read_users
from peterrec.encoders.user_state import UserState

BATCHES = (1, 16, 256)
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
SOME = "peterrec, updating some of twice as many users"
NAIVE = "naive torch, encoding again"
ADAPTERS = ("serial", "lora")  # patches around the convolutions, and a tuner inside them


def again_by(who: str) -> str:
    """Which row encodes again what `who` updates or encodes: with the same adapter, if it has one."""
    adapter = next((name for name in ADAPTERS if who.startswith(f"{name}: ")), None)
    return AGAIN if adapter is None else f"{adapter}: {AGAIN}"


def _update_of(encoder: UserEncoder, history: Tensor, item: Tensor) -> Callable[[], Tensor]:
    """One more item of everybody, which is remembered each time, and the user vectors then."""
    state = UserState.of(encoder, history)

    def update() -> Tensor:
        state.append(item)
        return state.vectors()

    return update


def _update_some_of(encoder: UserEncoder, history: Tensor, item: Tensor) -> Callable[[], Tensor]:
    """The same for every second user of a state, so that they have had more events than the others."""
    state = UserState.of(encoder, torch.cat([history, history]))
    users = torch.arange(0, 2 * len(history), 2)

    def update() -> Tensor:
        state.append(item, users=users)
        return state.vectors(users=users)

    return update


def _adapted_calls(
    workload: Workload, conditions: Conditions, history: Tensor, after: Tensor, item: Tensor
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    for name in ADAPTERS:
        encoder = encoder_of(workload, readout="last")
        adapt(encoder, catalogue.adapter(name), readout="last")  # it stands in the encoder itself
        encoder.to(torch.device(conditions.device)).eval()  # type: ignore[arg-type]
        yield f"{name}: {AGAIN}", partial(_vectors, encoder, after)
        yield f"{name}: {UPDATE}", _update_of(encoder, history, item)


def _vectors(encoder: UserEncoder, ids: Tensor) -> Tensor:
    return encoder(ids).user_vector


def calls_of(workload: Workload, conditions: Conditions) -> dict[str, Callable[[], Tensor]]:
    """Ways to the user vectors `(B, D)` after one more item, by name; the update remembers its item each time."""
    encoder = encoder_of(workload, readout="last")
    encoder.to(torch.device(conditions.device))  # type: ignore[arg-type]  # transformers hides its signature
    naive = NaiveNextItNet(workload.vocabulary, workload.channels, workload.dilations).to(conditions.device).eval()
    ids = torch.from_numpy(workload.histories(workload.users)).to(conditions.device)
    history, after = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    item = ids[:, -1].contiguous()
    valid = torch.ones_like(after, dtype=torch.bool)
    return {
        NAIVE: lambda: naive(after)[:, -1],
        AGAIN: partial(_vectors, encoder, after),
        PRUNED: lambda: read_users(encoder, after, valid, readout="last", reach=encoder.reach("last")),
        UPDATE: _update_of(encoder, history, item),
        SOME: _update_some_of(encoder, history, item),
        **dict(_adapted_calls(workload, conditions, history, after, item)),
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
            again = timings[again_by(name)]
            rows.append(
                {
                    "users": users,
                    "length": shape.length,
                    "who": name,
                    **timing.figures(),
                    "rate": users / timing.median,
                    "times": again.median / timing.median,
                    "times_best": again.least / timing.least,
                    "over_naive": timings[NAIVE].median / timing.median,
                }
            )
    notes = [
        f"L = {shape.length}, D = {shape.channels}, {shape.convolutions} convolutions, the last position's state.",
        "An adapter's rows are compared with encoding again with the same adapter; its weights are at their start.",
    ]
    yield Table(TITLE, COLUMNS, rows, notes)
    machine.look("after the updates of users")
