"""Random numbers as a pure function of (seed, purpose, number): a resume needs no generator's state."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_generators(seed: int, *, purpose: str, number: int, device: torch.device) -> None:
    """Seed Python, numpy and torch (CPU and `device`) for one step or validation, and nothing else."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{number}".encode(), digest_size=8).digest()
    value = int.from_bytes(digest, "little")
    random.seed(value)
    np.random.seed(value % 2**32)
    # torch.manual_seed takes half a millisecond, since it visits every kind of device there could be
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value % 2**63)


@contextmanager
def own_generators(device: torch.device) -> Iterator[None]:
    """Give the caller's generators back as they were."""
    states = random.getstate(), np.random.get_state()
    accelerators = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=accelerators):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
