"""What baselines learn from, against loops over each user's events."""

import numpy as np
import pytest

from peterrec.evaluation.cross_examples import CrossExamples, histories_of, items_read


def lists(found) -> list[list[int]]:
    return [part.tolist() for part in np.split(found[0], np.cumsum(found[1])[:-1])]


def read(told, events, *, mixed):
    """The rows of a history of (kind, row)."""
    shift = len(told.pairs.source_vocabulary) - 3
    return [row + (shift if kind == "target" else 0) for kind, row in events if mixed or kind == "source"]


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("recent", [None, 2])
def test_a_history_holds_what_came_before_and_no_more(told, mixed, recent):
    pairs = told.pairs
    events = np.arange(len(pairs.owner))[::-1]
    expected = []
    for event in events:
        history = told.users[pairs.owner[event]]
        places = [place for place, (kind, _) in enumerate(history) if kind == "target"]
        before = read(told, history[: places[event - pairs.starts[pairs.owner[event]]]], mixed=mixed)
        expected.append(before if recent is None else before[-recent:])
    assert lists(histories_of(pairs, events, mixed=mixed, recent=recent)) == expected
    rows = CrossExamples.of_events(pairs, events, mixed=mixed, recent=recent)
    assert lists(rows.sources) == expected
    assert lists(rows.targets) == [[row] for row in pairs.item[events].tolist()]
    assert rows.pairs_of_items() == sum(map(len, expected))
    highest = max(row for history in expected for row in history)
    assert highest < 3 + items_read(pairs, mixed=mixed)


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_of_users(told, mixed):
    users = np.arange(1, 90, 2)  # some have a single target event
    rows = CrossExamples.of_users(told.pairs, users, mixed=mixed)
    for user, history, items in zip(users, lists(rows.sources), lists(rows.targets), strict=True):
        events = told.users[user]
        places = [place for place, (kind, _) in enumerate(events) if kind == "target"]
        half = len(places) // 2 if mixed else 0
        assert items == [events[place][1] for place in places[half:]]
        assert history == read(told, events[: places[half] if mixed else places[-1]], mixed=mixed)
    assert rows.pairs_of_items() == sum(a * b for a, b in zip(rows.sources[1], rows.targets[1], strict=True))
