"""A small paired log, made at random, and its events user by user."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.cross_domain import PairedLogs
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.data.vocabulary import Vocabulary

SOURCES, TARGETS, USERS = 14, 11, 90


@dataclass(frozen=True)
class Told:
    """A paired log, and each user's events in order: ("source" or "target", row)."""

    pairs: PairedLogs
    users: list[list[tuple[str, int]]]


def write_part(folder, rows):
    with SequenceWriter(folder) as writer:
        users = pa.array([f"u{number:03}" for number in range(len(rows))])
        flat = np.array([row for part in rows for row in part], dtype=np.int32)
        writer.write(users, flat, np.array([len(part) for part in rows]))
    return Sequences(folder)


def vocabulary(prefix, counts):
    return Vocabulary(pa.array([f"{prefix}{number:02}" for number in range(len(counts))]), counts)


def paired_log(folder, users) -> PairedLogs:
    """The paired log of these users, each with at least one target event."""
    targets = [
        (number, place) for number, events in enumerate(users) for place, (k, _) in enumerate(events) if k == "target"
    ]
    items = np.array([users[number][place][1] for number, place in targets], dtype=np.int32)
    read = [row for events in users for kind, row in events if kind == "source"]
    return PairedLogs(
        folder=folder,
        source_vocabulary=vocabulary("s", np.bincount(read, minlength=3 + SOURCES)[3:]),
        target_vocabulary=vocabulary("t", np.bincount(items, minlength=3 + TARGETS)[3:]),
        sources=write_part(folder / "sources", [[row for kind, row in events if kind == "source"] for events in users]),
        mixed=write_part(
            folder / "mixed",
            [[row + (SOURCES if kind == "target" else 0) for kind, row in events] for events in users],
        ),
        owner=np.array([number for number, _ in targets]),
        item=items,
        before=np.array([sum(kind == "source" for kind, _ in users[number][:place]) for number, place in targets]),
        place=np.array([place for _, place in targets]),
        summary={},
        fingerprint="0",
    )


@pytest.fixture(scope="session")
def told(tmp_path_factory) -> Told:
    random = np.random.default_rng(3)
    users = []
    for _ in range(USERS):
        events = []
        for _ in range(int(random.integers(4, 14))):
            kind = "target" if random.random() < 0.4 else "source"
            size = TARGETS if kind == "target" else SOURCES
            events.append((kind, 3 + int(size * random.random() ** 1.7)))
        events.insert(int(random.integers(0, len(events) + 1)), ("target", 3 + int(random.integers(0, TARGETS))))
        users.append(events)
    return Told(paired_log(tmp_path_factory.mktemp("pairs"), users), users)
