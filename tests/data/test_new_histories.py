"""Histories of a raw log, against a plain loop over its rows."""

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data import new_histories
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.new_histories import open_histories
from peterrec.data.vocabulary import Vocabulary

KNOWN = [f"i{n}" for n in range(12)]


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.build(KNOWN, counts=np.arange(12)[::-1] + 1)


@pytest.fixture(scope="module")
def log():
    """400 events of 20 users in random order, with ties in time and items that the vocabulary does not hold."""
    random = np.random.default_rng(0)
    return pa.table(
        {
            "user": [f"u{n:02}" for n in random.integers(0, 20, 400)],
            "item": [f"i{n}" for n in random.integers(0, 16, 400)],
            "time": 1_600_000_000 + random.integers(0, 50, 400),
        }
    )


def wanted_of(log, users):
    """Each user's known items in order of time, then of the log, and its number of events."""
    found = {user: [] for user in users}
    for row in sorted(log.to_pylist(), key=lambda row: row["time"]):
        if row["user"] in found:
            found[row["user"]].append(row["item"])
    return {user: ([i for i in items if i in KNOWN], len(items)) for user, items in found.items()}


def read(vocabulary, found):
    sequences = found.sequences
    items = [vocabulary.ids(sequences.items_of(row)) for row in range(len(sequences))]
    return dict(zip(sequences.users, zip(items, found.events.tolist(), strict=True), strict=True))


@pytest.mark.parametrize("batch", [1, 40, 100, 1 << 22])
def test_everybody_in_the_log_in_batches_of_any_size(log, vocabulary, batch, monkeypatch):
    monkeypatch.setattr(new_histories, "BATCH_EVENTS", batch)
    with open_histories(log, columns=LogColumns(), vocabulary=vocabulary) as found:
        wanted = wanted_of(log, {f"u{n:02}" for n in range(20)})
        assert read(vocabulary, found) == wanted
        assert list(found.sequences.users) == sorted(wanted)
        assert found.unseen_events == 400 - sum(len(items) for items, _ in wanted.values()) > 0


@pytest.mark.parametrize("batch", [1, 64, 1 << 22])
def test_users_that_are_asked_for_with_and_without_events(log, vocabulary, batch, monkeypatch):
    monkeypatch.setattr(new_histories, "BATCH_EVENTS", batch)
    users = ["nobody", "u03", "zoe", "u11", "u03", *(f"x{n}" for n in range(50))]
    with open_histories(log, columns=LogColumns(), vocabulary=vocabulary, users=pa.chunked_array([users])) as found:
        assert read(vocabulary, found) == wanted_of(log, set(users))


def test_a_log_of_strangers_gives_empty_histories(log, vocabulary):
    other = log.set_column(1, "item", pa.array(["new"] * 400))
    with open_histories(other, columns=LogColumns(), vocabulary=vocabulary) as found:
        assert found.sequences.lengths.tolist() == [0] * 20
        assert found.unseen_events == found.events.sum() == 400


def test_batches_hold_bounded_events(log, vocabulary, monkeypatch):
    monkeypatch.setattr(new_histories, "BATCH_EVENTS", 100)
    monkeypatch.setattr(new_histories, "USER_SHARE", 0)
    sizes = []
    take = new_histories.RowStream.take

    def noted(stream, events):
        sizes.append(events)
        return take(stream, events)

    monkeypatch.setattr(new_histories.RowStream, "take", noted)
    with open_histories(log, columns=LogColumns(), vocabulary=vocabulary):
        largest = max(count for _, count in wanted_of(log, {f"u{n:02}" for n in range(20)}).values())
    assert sum(sizes) == 400
    assert len(sizes) >= 4
    assert max(sizes) < 100 + largest
