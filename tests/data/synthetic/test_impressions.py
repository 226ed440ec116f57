"""The world's impressions: what they look like, that they follow their equations, and that nothing else changed."""

import csv
import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest

from peterrec.data.synthetic import World, WorldSettings
from peterrec.data.synthetic.impression_parameters import DEVICES, DOMAINS, POSITIONS

SMALL = WorldSettings(users=300, items=200, target_items=50, seed=5)
COLUMNS = ["user", "item", "time", "domain", "position", "device"]
COLUMNS += ["click", "cart", "conversion", "like", "dwell", "completion"]


@pytest.fixture(scope="module")
def small() -> World:
    return World.generate(SMALL)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(WorldSettings(seed=1))


def digest(world: World) -> str:
    rows = zip(*(column.to_pylist() for column in world.impression_table().columns), strict=True)
    return hashlib.sha256("\n".join(",".join(map(str, row)) for row in rows).encode()).hexdigest()


def deviation(observed: np.ndarray, probability: np.ndarray) -> float:
    """By how many standard deviations a number of events is off the sum of their probabilities."""
    return float((observed.sum() - probability.sum()) / math.sqrt((probability * (1 - probability)).sum()))


def test_the_same_settings_give_the_same_impressions(small: World) -> None:
    assert digest(World.generate(SMALL)) == digest(small)
    assert digest(small) == "0658492d04c6691af342e70276e4c15dceb65b0046db557983b63374a407ea0f"
    assert digest(World.generate(dataclasses.replace(SMALL, seed=6))) != digest(small)


def test_drawing_them_changes_nothing_else(small: World) -> None:
    other = World.generate(SMALL)
    before = (other.log_table(), other.labels, other.target)
    assert len(other.impressions) == len(small.impressions)
    again = World.generate(SMALL)
    assert (again.log_table(), again.labels, again.target) == before
    assert (other.log_table(), other.labels, other.target) == before


def test_the_table_says_what_was_drawn(small: World) -> None:
    table = small.impression_table()
    assert table.column_names == COLUMNS
    rows = table.to_pylist()
    assert (np.diff(table["time"].to_numpy()) >= 0).all()
    for row in rows:
        assert row["domain"] in DOMAINS
        assert row["device"] in DEVICES
        assert 1 <= row["position"] <= POSITIONS
        assert {row[name] for name in ("click", "cart", "conversion", "like")} <= {0, 1}
        assert row["cart"] <= row["click"]
        assert row["conversion"] <= row["click"]
        assert (row["dwell"] is None) == (row["completion"] is None) == (not row["click"])
    drawn = small.impressions
    assert [row["user"] for row in rows] == [small.users[user] for user in drawn.user]
    assert [row["item"] for row in rows] == [small.target_items[item] for item in drawn.shown.item]


def test_they_follow_the_history_and_lie_between_target_events(world: World) -> None:
    last = world.times[world.histories.offsets[1:] - 1]
    drawn = world.impressions
    assert (drawn.time >= last[drawn.user] + 600).all()
    number = {user: row for row, user in enumerate(world.users)}
    first, final = np.full(len(last), np.iinfo(np.int64).max), np.zeros(len(last), np.int64)
    for user, time in zip(world.target["user"].to_pylist(), world.target["time"].to_pylist(), strict=True):
        first[number[user]] = min(first[number[user]], time)
        final[number[user]] = max(final[number[user]], time)
    between = (drawn.time > first[drawn.user]) & (drawn.time < final[drawn.user])
    assert between.mean() > 0.01


def test_a_list_is_of_one_domain_and_device_and_shows_an_item_once(small: World) -> None:
    lists: dict[tuple[int, int], list[int]] = {}
    drawn = small.impressions
    for row in range(len(drawn)):
        lists.setdefault((int(drawn.user[row]), int(drawn.time[row])), []).append(row)
    counts = np.bincount([user for user, _ in lists])
    assert (counts.min(), len(counts)) == (2, SMALL.users)
    assert 6 <= counts.max() <= 12
    for rows in lists.values():
        assert drawn.shown.position[rows].tolist() == list(range(1, len(rows) + 1))
        assert 6 <= len(rows) <= POSITIONS
        assert len(set(drawn.shown.item[rows].tolist())) == len(rows)
        assert len(set(drawn.shown.domain[rows].tolist())) == len(set(drawn.shown.device[rows].tolist())) == 1


def test_sizes_and_rates_at_default_settings(world: World) -> None:
    drawn, shown = world.impressions, world.impressions.shown
    assert 120_000 < len(drawn) < 200_000
    assert 0.16 < drawn.click.mean() < 0.25
    assert 0.07 < drawn.conversion[drawn.click].mean() < 0.15
    assert 0.15 < drawn.cart[drawn.click].mean() < 0.3
    assert 0.04 < drawn.like.mean() < 0.12
    assert 0.3 < drawn.completed[drawn.click].mean() < 0.6
    np.testing.assert_allclose(np.bincount(shown.domain) / len(drawn), [0.6, 0.3, 0.1], atol=0.015)
    np.testing.assert_allclose(np.bincount(shown.device) / len(drawn), [0.6, 0.1, 0.3], atol=0.015)
    rates = [drawn.click[shown.domain == domain].mean() for domain in range(3)]
    assert max(rates) - min(rates) > 0.05
    by_position = [drawn.click[shown.position == position].mean() for position in range(1, 11)]
    assert by_position == sorted(by_position, reverse=True)
    assert by_position[0] > 3 * by_position[-1]
    # Better items stand higher: the position is confounded with what it shows.
    quality = world.impression_parameters.quality[shown.item]
    assert quality[shown.position == 1].mean() > quality[shown.position == 6].mean() + 0.5


def test_position_and_device_matter_to_clicks_alone(world: World) -> None:
    drawn, shown = world.impressions, world.impressions.shown
    popular = shown.item == np.bincount(shown.item).argmax()  # one item: quality and topic are held fixed
    for name, observed, among in (
        ("like", drawn.like, popular),
        ("cart", drawn.cart, popular & drawn.click),
        ("completed", drawn.completed, popular & drawn.click),
    ):
        for split in (shown.position <= 2, shown.device == 0):
            one, other = observed[among & split], observed[among & ~split]
            spread = math.sqrt(one.var() / len(one) + other.var() / len(other))
            assert abs(one.mean() - other.mean()) < 4.5 * spread, name
    one, other = drawn.click[popular & (shown.position <= 2)], drawn.click[popular & (shown.position > 2)]
    assert one.mean() > other.mean() + 0.05


def test_likes_turn_clicks_round_for_half_of_the_topics(world: World) -> None:
    parameters = world.impression_parameters
    assert sorted(parameters.conflict) == [-1.0] * 10 + [1.0] * 10
    for sign in (-1, 1):
        topics = parameters.conflict == sign
        pairs = [
            (parameters.click[domain][:, topics].ravel(), parameters.like[domain][:, topics].ravel())
            for domain in range(len(DOMAINS))
        ]
        assert all(sign * np.corrcoef(*pair)[0, 1] > 0.5 for pair in pairs)
    drawn, conflict = world.impressions, parameters.conflict[world.impressions.shown.topic]
    together, apart = (
        np.corrcoef(drawn.click[conflict == sign], drawn.like[conflict == sign])[0, 1] for sign in (1, -1)
    )
    assert together > 0.05
    assert apart < 0


def test_domains_share_a_part_of_their_tastes(world: World) -> None:
    click = world.impression_parameters.click
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 0.6 < np.corrcoef(click[one].ravel(), click[other].ravel())[0, 1] < 0.95


def test_labels_follow_the_equations(world: World) -> None:
    """Every label's frequency in cells of the table, by the equations written out anew, persona by persona."""
    drawn, shown, tables = world.impressions, world.impressions.shown, world.impression_parameters

    def sigmoid(score: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-score))

    where = (shown.domain, world.label_personas[drawn.user], world.parameters.target.topic[shown.item])
    quality, worth = tables.quality[shown.item], tables.worth[shown.item]
    slope = np.array([0.9, 0.7, 0.5])[shown.device]
    click, cart = drawn.click, drawn.cart
    truth = {
        "click": (click, sigmoid(tables.click[where] + 0.6 * quality - slope * np.log(shown.position)), True),
        "like": (drawn.like, sigmoid(tables.like[where] + 0.4 * quality), True),
        "cart": (cart, sigmoid(tables.cart[where] + 0.6 * worth), click),
        "from cart": (drawn.conversion, sigmoid(tables.from_cart[where] + 0.6 * worth), cart),
        "without": (drawn.conversion, sigmoid(tables.without_cart[where] + 0.6 * worth), click & ~cart),
    }
    for name, (observed, probability, among) in truth.items():
        for cell in (
            np.ones(len(drawn), bool),
            *(shown.domain == domain for domain in range(3)),
            *(shown.device == device for device in range(3)),
            shown.position >= 6,
            probability > np.quantile(probability, 0.9),
        ):
            assert abs(deviation(observed[cell & among], probability[cell & among])) < 4.5, name
    stay = tables.stay[where][click]
    noise = np.log(drawn.dwell[click]) - stay
    assert noise.mean() == pytest.approx(0.0, abs=4.5 * 0.8 / math.sqrt(click.sum()))
    assert noise.std() == pytest.approx(0.8, abs=0.02)
    # Completion is a dwell of at least the item's length, before that is rounded to a tenth of a second.
    enough = drawn.dwell[click] - np.exp(tables.length[shown.item][click])
    clear = np.abs(enough) > 0.051
    np.testing.assert_array_equal(drawn.completed[click][clear], (enough > 0)[clear])


def test_without_relation_another_persona_answers(small: World) -> None:
    control = World.generate(dataclasses.replace(SMALL, related=False))
    for name in ("user", "time"):
        np.testing.assert_array_equal(getattr(control.impressions, name), getattr(small.impressions, name))
    np.testing.assert_array_equal(control.impressions.shown.item, small.impressions.shown.item)
    assert (control.impressions.click != small.impressions.click).mean() > 0.05


def test_the_file_holds_the_table(small: World, tmp_path: Path) -> None:
    files = small.write(tmp_path)
    assert files.impressions == tmp_path / "impressions.csv"
    with files.impressions.open(newline="") as stream:
        names, *rows = csv.reader(stream)
    assert names == ["timestamp" if name == "time" else name for name in COLUMNS]
    columns = [column.to_pylist() for column in small.impression_table().columns]
    wanted = [["" if value is None else str(value) for value in row] for row in zip(*columns, strict=True)]
    text, dwell = [row[:10] + row[11:] for row in rows], [row[10] for row in rows]
    assert text == [row[:10] + row[11:] for row in wanted]
    assert [cell and float(cell) for cell in dwell] == [row[10] and float(row[10]) for row in wanted]
    assert b'"' not in files.impressions.read_bytes()


@pytest.mark.parametrize(
    "settings",
    [
        WorldSettings(users=1, items=5, topics=5, target_items=5, personas=8),
        WorldSettings(users=20, items=30, topics=5, target_items=5, personas=160),
        WorldSettings(users=20, items=30, topics=5, target_items=12, personas=16, zipf=0.0),
    ],
)
def test_small_and_odd_worlds_hold(settings: WorldSettings) -> None:
    world = World.generate(settings)
    shown = world.impressions.shown
    assert shown.position.max() <= min(POSITIONS, settings.target_items)
    answer = world.oracle_impressions(
        world.histories, items=shown.item, domains=shown.domain, positions=shown.position, rows=world.impressions.user
    )
    assert ((answer.click > 0) & (answer.click < 1) & (answer.conversion < answer.click)).all()
