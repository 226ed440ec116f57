"""Rings against lists of what each user's layers have read."""

import numpy as np
import pytest
import torch
from torch import Tensor

from peterrec.encoders.input_rings import Lines, Ring, RingGroup, in_slots, out_of_slots

USERS, WIDTH, RINGS = 5, 3, 2
SHAPES = [(1, 4), (2, 1), (2, 3), (3, 2), (5, 4), (6, 1)]  # taps, dilation


def group_of(taps: int, dilation: int) -> RingGroup:
    ring = Ring("taps", whole=False, taps=taps, dilation=dilation, width=WIDTH, conv=None)
    return RingGroup([ring] * RINGS)


def push(line: Lines, inputs: Tensor) -> None:
    """The new inputs of one user, `(RINGS, WIDTH)`."""
    line.move_up()
    for number, newest in enumerate(line.newest):
        newest.copy_(inputs[number])


def events(seed: int, *, rounds: int) -> list[tuple[list[int], np.ndarray]]:
    """Which users have an event in each round, and what each ring then reads `(n, RINGS, WIDTH)`."""
    drawn = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        users = np.flatnonzero(drawn.random(USERS) < 0.6)
        found.append((users.tolist(), drawn.standard_normal((len(users), RINGS, WIDTH))))
    return found


@pytest.mark.parametrize(("taps", "dilation"), SHAPES)
def test_a_line_holds_the_taps_of_the_next_event(taps, dilation):
    group = group_of(taps, dilation)
    memory = group.empty(USERS, dtype=torch.float64, device=torch.device("cpu"))
    assert memory.numel() == USERS * RINGS * taps * dilation * WIDTH
    read = [[np.zeros((RINGS, WIDTH))] * (taps * dilation) for _ in range(USERS)]  # before the first event
    lengths = [0] * USERS
    for users, new in events(1, rounds=40):
        for user, inputs in zip(users, new, strict=True):
            line = group.lines(memory[user : user + 1, lengths[user] % dilation])
            for number in range(RINGS):
                wanted = np.concatenate([read[user][-tap * dilation][number] for tap in range(taps, 0, -1)])
                assert np.array_equal(line.matrices[number, 0].numpy(), wanted)
            push(line, torch.from_numpy(inputs))
            read[user].append(inputs)
            lengths[user] += 1
    assert len(set(lengths)) > 1
    for number in range(RINGS):
        aged = group.aged(memory, number, torch.tensor(lengths))
        wanted = np.stack([np.stack([inputs[number] for inputs in own[-group.span :]]) for own in read])
        assert np.array_equal(aged.numpy(), wanted)


@pytest.mark.parametrize(("taps", "dilation"), SHAPES)
def test_histories_that_are_put_in_are_what_their_events_leave(taps, dilation):
    group, drawn = group_of(taps, dilation), np.random.default_rng(2)
    given = min(group.span, 4)
    clock = torch.tensor([0, 1, 3, 17, 100])
    there = torch.arange(given, 0, -1) <= clock.unsqueeze(1)
    inputs = torch.from_numpy(drawn.standard_normal((USERS, given, WIDTH))) * there.unsqueeze(2)
    memory = group.empty(USERS, dtype=torch.float64, device=torch.device("cpu"))
    memory.fill_(torch.nan)  # what was there before is overwritten
    for number in range(RINGS):
        group.put(memory, number, inputs, clock)
    one_by_one = group.empty(USERS, dtype=torch.float64, device=torch.device("cpu"))
    for user in range(USERS):
        for back in range(min(given, int(clock[user])), 0, -1):
            line = group.lines(one_by_one[user : user + 1, (int(clock[user]) - back) % dilation])
            push(line, inputs[user, given - back].expand(RINGS, -1))
    assert torch.equal(memory, one_by_one)


def test_slots_are_those_of_the_number_of_the_event():
    clock, span = torch.tensor([0, 4, 7, 123]), 6
    aged = torch.arange(4 * span, dtype=torch.float32).view(4, span, 1)
    slots = in_slots(aged, clock)
    for user, had in enumerate(clock.tolist()):
        for back in range(1, span + 1):
            assert slots[user, (had - back) % span] == aged[user, span - back]
    assert torch.equal(out_of_slots(slots, clock), aged)
