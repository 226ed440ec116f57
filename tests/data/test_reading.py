"""Histories laid out for an encoder, against lists."""

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.reading import WHOLE, Reading, places_of
from peterrec.data.sequences import Sequences, SequenceWriter
from peterrec.errors import SettingsError

LENGTHS = np.array([0, 1, 4, 5, 9, 30, 3])
FRONT, BACK = 1, 2


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("part") / "histories"
    with SequenceWriter(folder) as writer:
        flat = np.random.default_rng(0).integers(3, 99, LENGTHS.sum()).astype(np.int32)
        writer.write(pa.array([f"u{i}" for i in range(len(LENGTHS))]), flat, LENGTHS)
    return Sequences(folder)


def by_hand(items: list[int], reading: Reading) -> list[list[int]]:
    """The windows of one user, oldest first."""
    row = [reading.front] * (reading.front is not None) + items[max(len(items) - reading.max_length, 0) :]
    row += [reading.back] * (reading.back is not None)
    size = reading.window or max(len(row), 1)
    windows = [row[max(stop - size, 0) : stop] for stop in range(len(row), 0, -size)][::-1] or [[]]
    if reading.parts == "last":
        return windows[-1:]
    return [row[:size], windows[-1]] if reading.parts == "ends" and len(windows) > 1 else windows


@pytest.mark.parametrize("parts", ["all", "last", "ends"])
@pytest.mark.parametrize("special", [(None, None), (None, BACK), (FRONT, BACK), (FRONT, None)])
@pytest.mark.parametrize("window", [None, 3, 4, 30])
@pytest.mark.parametrize("max_length", [1, 4, 11, WHOLE])
def test_users_are_laid_out_as_lists_are(sequences, max_length, window, special, parts):
    reading = Reading(max_length=max_length, window=window, front=special[0], back=special[1], parts=parts)
    users = np.array([5, 0, 4, 1, 6, 3, 2])
    rows = reading.rows(sequences, users)
    wanted = [by_hand(sequences.items_of(user).tolist(), reading) for user in users]
    assert rows.ids.shape == (
        sum(map(len, wanted)),
        max(1, *(len(row) for windows in wanted for row in windows)),
    )
    places = np.arange(len(users))[:, None] if rows.places is None else rows.places
    assert (rows.places is None) == all(len(windows) == 1 for windows in wanted)
    for own, windows in zip(places, wanted, strict=True):
        there = own[own >= 0]
        assert (own[: len(own) - len(there)] == -1).all(), "missing rows are in front"
        found = [row[: len(row) - (row[::-1] != 0).argmax()].tolist() if row.any() else [] for row in rows.ids[there]]
        assert found == windows
    assert reading.cuts(sequences.lengths[users]).lengths.tolist() == [len(w) for windows in wanted for w in windows]
    special_rows = sum(row is not None for row in special)
    read = [max(sum(map(len, windows)) - special_rows, 0) for windows in wanted]
    assert reading.events(sequences.lengths[users]).tolist() == read if parts == "all" else True


def test_events_that_are_read_of_the_windows_that_are_read():
    lengths = np.array([0, 3, 4, 5, 7, 8, 9])
    assert Reading(window=4, parts="last").events(lengths).tolist() == [0, 3, 4, 4, 4, 4, 4]
    assert Reading(window=4, parts="last", back=BACK).events(lengths).tolist() == [0, 3, 3, 3, 3, 3, 3]
    assert Reading(window=4, parts="ends").events(lengths).tolist() == [0, 3, 4, 5, 7, 8, 8]
    assert Reading(max_length=6).events(lengths).tolist() == [0, 3, 4, 5, 6, 6, 6]


def test_no_end_is_a_special_row_alone(sequences):
    reading = Reading(window=4, front=FRONT, back=BACK, parts="ends")
    found = reading.rows(sequences, np.array([6, 2]))  # 3 events with their special rows fill a window and one place
    assert found.places.tolist() == [[0, 1], [2, 3]]
    for user, (oldest, latest) in zip((6, 2), found.ids.reshape(2, 2, 4).tolist(), strict=True):
        items = sequences.items_of(user).tolist()
        assert (oldest, latest) == ([FRONT, *items[:3]], [*items[-3:], BACK])
    assert reading.events(np.array([0, 2, 3, 6, 7])).tolist() == [0, 2, 3, 6, 6]


def test_a_window_has_room_for_an_event():
    Reading(window=3, front=FRONT, back=BACK)
    with pytest.raises(SettingsError, match="set it to 3 or more"):
        Reading(window=2, front=FRONT, back=BACK)


def test_one_row_each_needs_no_places():
    assert places_of(np.arange(4), users=4) is None
    assert places_of(np.array([0, 1, 1, 2]), users=3).tolist() == [[-1, 0], [1, 2], [-1, 3]]
