"""What a generated world looks like, and that it is the same every time."""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pytest

from peterrec.data.synthetic import Histories, World, WorldSettings
from peterrec.errors import SettingsError

SMALL = WorldSettings(users=300, items=200, target_items=50, seed=5)


@pytest.fixture(scope="module")
def small() -> World:
    return World.generate(SMALL)


def digest(world: World) -> str:
    """SHA-256 of the log, the labels and the target domain as text."""
    text = "\n".join(
        ",".join(map(str, row))
        for table in (world.log_table(), world.labels, world.target)
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True)
    )
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_settings_give_the_same_world(small: World) -> None:
    assert digest(World.generate(SMALL)) == digest(small)
    assert digest(small) == "a945acb892ed7c4e1744236ab5338c920bb764c895c74a30c1c8dffe2ff5e2ed"
    assert digest(World.generate(dataclasses.replace(SMALL, seed=6))) != digest(small)


def test_shapes_and_ids(small: World) -> None:
    assert small.users[42] == "u00042"
    assert small.items[7] == "i0007"
    assert small.target_items[-1] == "t0049"
    lengths = small.histories.lengths
    assert len(small.histories) == len(small.users) == SMALL.users
    assert lengths.min() >= SMALL.min_length
    assert lengths.max() <= SMALL.max_length
    assert len(small.times) == len(small.histories.items) == lengths.sum()
    assert small.times.dtype == np.int64
    assert small.labels.column_names == ["user", "gender", "age", "occupation"]
    assert small.labels["user"].to_pylist() == small.users
    assert small.labels.schema.field("age").type == pa.int64()
    for column in ("gender", "age", "occupation"):
        assert set(small.labels[column].to_pylist()) == set(small.classes(column))
        assert list(small.classes(column)) == sorted(small.classes(column))


def test_lengths_follow_the_settings() -> None:
    world = World.generate(WorldSettings(users=4000, items=50, mean_length=25, min_length=3, max_length=200))
    lengths = world.histories.lengths
    assert lengths.mean() == pytest.approx(25, abs=1)
    # A log-normal's median lies below its mean.
    assert np.median(lengths) == pytest.approx(25 * np.exp(-0.18), abs=1)
    assert lengths.min() <= 6
    assert lengths.max() >= 90


def test_the_log_is_sorted_by_time_and_keeps_each_history(small: World) -> None:
    log = small.log_table()
    assert log.schema.names == ["user", "item", "time"]
    assert (np.diff(log["time"].to_numpy()) >= 0).all()
    histories: dict[str, list[str]] = {user: [] for user in small.users}
    for user, item in zip(log["user"].to_pylist(), log["item"].to_pylist(), strict=True):
        histories[user].append(item)
    for row, user in enumerate(small.users):
        assert histories[user] == [small.items[item] for item in small.histories[row]]


def test_times_rise_with_ties(small: World) -> None:
    inside = np.diff(small.histories.rows) == 0
    gaps = np.diff(small.times)[inside]
    assert (gaps >= 0).all()
    assert (gaps == 0).mean() == pytest.approx(SMALL.ties, abs=0.02)
    without = World.generate(dataclasses.replace(SMALL, ties=0.0))
    assert (np.diff(without.times)[inside] > 0).all()


def test_the_target_domain_follows_each_history(small: World) -> None:
    last = dict(zip(small.users, small.times[small.histories.offsets[1:] - 1].tolist(), strict=True))
    users = small.target["user"].to_pylist()
    assert set(users) == set(small.users)
    assert max(users.count(user) for user in small.users[:50]) <= 8
    assert all(time > last[user] for user, time in zip(users, small.target["time"].to_pylist(), strict=True))
    assert set(small.target["item"].to_pylist()) <= set(small.target_items)


def test_repeats_and_popularity_follow_the_settings() -> None:
    base = WorldSettings(users=400, items=5000, zipf=0.0, repeat=0.0)
    shares = []
    for repeat in (0.0, 0.5):
        world = World.generate(dataclasses.replace(base, repeat=repeat))
        seen = [len(np.unique(world.histories[row])) for row in range(400)]
        shares.append(1 - sum(seen) / world.histories.lengths.sum())
    assert shares[0] < 0.03
    assert shares[1] > 0.25
    even, steep = (
        np.sort(np.bincount(World.generate(dataclasses.replace(base, zipf=zipf)).histories.items))[::-1]
        for zipf in (0.0, 1.2)
    )
    assert even[:100].sum() / even.sum() < 0.08
    assert steep[:100].sum() / steep.sum() > 0.4


def test_no_stream_disturbs_another(small: World) -> None:
    longer_target = World.generate(dataclasses.replace(SMALL, ties=0.5, related=False))
    np.testing.assert_array_equal(longer_target.histories.items, small.histories.items)
    assert longer_target.labels != small.labels


def test_the_truth_cannot_be_changed(small: World) -> None:
    with pytest.raises(ValueError, match="read-only"):
        small.histories.items[0] = 1


def test_items_are_not_named_after_their_topics(small: World) -> None:
    topic = small.parameters.source.topic
    assert np.bincount(topic).tolist() == [10] * 20
    assert abs(np.corrcoef(topic, np.arange(len(topic)))[0, 1]) < 0.2
    np.testing.assert_allclose(np.bincount(topic, small.parameters.source.popularity), 1.0)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"users": 0}, "users"),
        ({"topics": 4}, "topics"),
        ({"items": 19}, "items"),
        ({"target_items": 19}, "target_items"),
        ({"personas": 12}, "personas"),
        ({"min_length": 0}, "min_length"),
        ({"max_length": 7}, "max_length"),
        ({"mean_length": 121}, "mean_length"),
        ({"repeat": 1.0}, "repeat"),
        ({"ties": -0.1}, "ties"),
        ({"zipf": -1.0}, "zipf"),
        ({"seed": -1}, "seed"),
    ],
)
def test_impossible_settings_are_named(settings: dict[str, float], named: str) -> None:
    with pytest.raises(SettingsError, match=f"World setting {named} = .*must be"):
        WorldSettings(**settings)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "settings",
    [
        WorldSettings(users=1, items=5, topics=5, target_items=5, personas=8),
        WorldSettings(users=20, items=30, topics=5, target_items=5, personas=160),
        WorldSettings(users=20, mean_length=1, min_length=1, max_length=1),
    ],
)
def test_small_and_odd_worlds_hold(settings: WorldSettings) -> None:
    world = World.generate(settings)
    np.testing.assert_allclose(world.oracle_next_item(world.histories).sum(axis=1), 1.0)
    np.testing.assert_allclose(world.oracle_attribute("gender", world.histories).sum(axis=1), 1.0)


def test_histories_are_rows_of_a_flat_array() -> None:
    histories = Histories.of_ids([["a", "x", "b"], [], ["x"]], numbers={"a": 0, "b": 1})
    assert len(histories) == 3
    assert [row.tolist() for row in histories] == [[0, -1, 1], [], [-1]]
    assert [row.tolist() for row in histories.known()] == [[0, 1], [], []]
    assert histories.rows.tolist() == [0, 0, 0, 2]
    assert histories[-1].tolist() == [-1]
    with pytest.raises(IndexError):
        histories[3]
