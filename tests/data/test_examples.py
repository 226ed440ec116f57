"""Which events are examples, and what their histories hold, against loops over the users."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.cross_domain import PairedLogs, TwoLogs, write_pairs
from peterrec.data.examples import Examples, Prefixes, choose_events, draw_events, split_pairs
from peterrec.data.logs.interactions import LogColumns
from peterrec.data.reading import Reading
from peterrec.data.vocabulary import Vocabulary
from peterrec.errors import DataError


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> PairedLogs:
    """60 users with 1 to 12 target events among 0 to 20 source events."""
    random = np.random.default_rng(3)
    tables = []
    for most, first in ((20, 0), (12, 100)):
        counts = random.integers(1, most + 1, 60)
        total = int(counts.sum())
        tables.append(
            pa.table(
                {
                    "user": [f"u{user:02}" for user in np.repeat(np.arange(60), counts)],
                    "item": [f"i{item}" for item in first + random.integers(0, 9, total)],
                    "time": 1_600_000_000 + random.integers(0, 40, total),
                }
            )
        )
    logs = TwoLogs(*tables, source_columns=LogColumns(), target_columns=LogColumns())
    vocabulary = Vocabulary.build([f"i{n}" for n in range(8)], counts=np.arange(8))
    return write_pairs(logs, folder=tmp_path_factory.mktemp("examples") / "pairs", vocabulary=vocabulary)


def some_users(pairs):
    return np.sort(np.random.default_rng(0).permutation(len(pairs))[:40])


def events_of(pairs, user):
    """The user's target events, in order."""
    return [event for event, owner in enumerate(pairs.owner) if owner == user]


@pytest.mark.parametrize("fewest", [0, 1, 5])
def test_chosen_events_are_the_first_the_last_or_all(pairs, fewest):
    users = some_users(pairs)
    picks = {"first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}
    for which, part in picks.items():
        wanted = [event for user in users for event in events_of(pairs, user)[part] if pairs.before[event] >= fewest]
        assert choose_events(pairs, users, which=which, fewest_source=fewest).tolist() == wanted
        assert wanted
    assert choose_events(pairs, users[:0], which="all").tolist() == []


@pytest.mark.parametrize("most", [1, 3, 100])
def test_drawn_events_are_of_the_users_usable_and_not_too_many(pairs, most):
    users = some_users(pairs)
    drawn = draw_events(pairs, users, most=most, fewest_source=2, seed=0, epoch=0)
    assert (np.diff(drawn) > 0).all(), "no event twice"
    for user in range(len(pairs)):
        usable = [event for event in events_of(pairs, user) if pairs.before[event] >= 2] if user in users else []
        mine = [event for event in drawn if pairs.owner[event] == user]
        assert set(mine) <= set(usable)
        assert len(mine) == min(len(usable), most)


def test_draws_follow_from_seed_and_epoch_and_reach_every_event_alike(pairs):
    users = some_users(pairs)

    def draw(seed, epoch):
        return draw_events(pairs, users, most=2, fewest_source=1, seed=seed, epoch=epoch)

    assert draw(4, 7).tolist() == draw(4, 7).tolist()
    assert draw(4, 7).tolist() != draw(4, 8).tolist()
    assert draw(4, 7).tolist() != draw(5, 7).tolist()
    times = np.zeros(len(pairs.owner))
    for epoch in range(400):
        times[draw(0, epoch)] += 1
    for user in users:
        usable = [event for event in events_of(pairs, user) if pairs.before[event] >= 1]
        if usable:
            share = min(2 / len(usable), 1)
            spread = 5 * np.sqrt(400 * share * (1 - share))
            assert np.abs(times[usable] - 400 * share).max() <= spread


@pytest.mark.parametrize("history", ["source", "mixed"])
def test_histories_are_prefixes_and_read_like_any_sequences(pairs, history):
    events = choose_events(pairs, some_users(pairs), which="all", fewest_source=0)
    events = np.random.default_rng(1).permutation(events)
    examples = Examples(events)
    view = examples.histories(pairs, history=history)
    whole, stops = (pairs.sources, pairs.before) if history == "source" else (pairs.mixed, pairs.place)
    wanted = [whole.items_of(int(pairs.owner[event]))[: stops[event]].tolist() for event in events]
    assert [view.items_of(row).tolist() for row in range(len(view))] == wanted
    assert view.lengths.tolist() == [len(items) for items in wanted]
    assert list(view.users) == [pairs.users[int(pairs.owner[event])] for event in events]
    assert view.targets is None
    assert examples.targets(pairs).tolist() == [pairs.item[event] for event in events]

    asked = np.array([5, 0, 5, len(view) - 1])
    starts, ends = view.lengths[asked] // 3, view.lengths[asked]
    flat, lengths = view.gather(asked, starts, ends)
    assert flat.tolist() == [item for row, start in zip(asked, starts, strict=True) for item in wanted[row][start:]]
    assert lengths.tolist() == (ends - starts).tolist()

    read = Reading(max_length=4).rows(view, asked)
    assert [[item for item in row if item] for row in read.ids.tolist()] == [wanted[row][-4:] for row in asked]


def test_a_prefix_gives_no_event_behind_its_end(pairs):
    longest = int(pairs.sources.lengths.argmax())
    stop = int(pairs.sources.lengths[longest]) - 1
    view = Prefixes(pairs.sources, rows=[longest], stops=[stop])
    assert view.gather([0], [0], [stop])[1].tolist() == [stop]
    with pytest.raises(IndexError, match="outside of their row"):
        view.gather([0], [0], [stop + 1])
    for row in (-1, 1):
        with pytest.raises(IndexError, match="asked for; it has 1"):
            view.gather([row], [0], [0])
        with pytest.raises(IndexError, match="asked for; it has 1"):
            view.items_of(row)
    with pytest.raises(IndexError, match="longer than their row"):
        Prefixes(pairs.sources, rows=[longest], stops=[stop + 2])
    with pytest.raises(IndexError, match="it has 60"):
        Prefixes(pairs.sources, rows=[60], stops=[0])
    with pytest.raises(IndexError, match="1 rows and 2 stops"):
        Prefixes(pairs.sources, rows=[0], stops=[0, 0])
    assert len(Prefixes(pairs.sources, rows=[], stops=[])) == 0


def test_users_are_in_one_part_each_and_the_parts_have_their_shares(pairs):
    split = split_pairs(pairs, fractions=(0.7, 0.03, 0.27), seed=0)
    parts = (split.train, split.validation, split.test)
    assert sorted(np.concatenate(parts)) == list(range(60))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert [len(part) for part in parts] == [35, 9, 16], "a fifth of the others validates where users are few"
    again, other = (split_pairs(pairs, fractions=(0.7, 0.03, 0.27), seed=seed) for seed in (0, 1))
    assert again.test.tolist() == split.test.tolist()
    assert other.test.tolist() != split.test.tolist()


@pytest.mark.parametrize(("users", "sizes"), [(400, [252, 40, 108]), (6000, [4200, 180, 1620]), (3, [1, 1, 1])])
def test_forty_users_validate_where_there_are_enough(pairs, users, sizes):
    many = replace(pairs, sources=Prefixes(pairs.sources, rows=np.zeros(users), stops=np.zeros(users)))
    split = split_pairs(many, fractions=(0.7, 0.03, 0.27), seed=0)
    assert [len(split.train), len(split.validation), len(split.test)] == sizes


@pytest.mark.parametrize("users", [1, 2])
def test_too_few_users_are_told(pairs, users):
    few = replace(pairs, sources=Prefixes(pairs.sources, rows=np.zeros(users), stops=np.zeros(users)))
    with pytest.raises(DataError, match=f"{users} users are in both domains.*at least three"):
        split_pairs(few, fractions=(0.7, 0.03, 0.27), seed=0)
