"""The oracle of impressions against the equations one by one, against drawn labels, and against what it must refuse."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from peterrec.data.synthetic import Histories, ImpressionProbabilities, World, WorldSettings
from peterrec.data.synthetic.impression_parameters import DEVICE_SHARES, DEVICES, DOMAINS
from peterrec.data.synthetic.oracle import persona_posterior
from peterrec.errors import SettingsError

LABELS = ("click", "cart", "conversion", "like")


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(WorldSettings(users=2500, seed=4))


@pytest.fixture(scope="module")
def control() -> World:
    return World.generate(WorldSettings(users=1500, seed=4, related=False))


def answers(world: World, *, devices: bool = True, histories: Histories | None = None) -> ImpressionProbabilities:
    """The oracle for all impressions of a world."""
    drawn = world.impressions
    return world.oracle_impressions(
        histories or world.histories,
        items=drawn.shown.item,
        domains=drawn.shown.domain,
        positions=drawn.shown.position,
        devices=drawn.shown.device if devices else None,
        rows=drawn.user,
    )


def sigmoid(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def brute_force(
    world: World, history: list[int], item: int, domain: int, position: int, device: int
) -> dict[str, float]:
    """All answers for one impression, persona by persona, as the package's docstring has them."""
    tables, k = world.impression_parameters, int(world.parameters.target.topic[item])
    flat = Histories.of_lengths(np.array(history, np.int32), np.array([len(history)]))
    posterior = persona_posterior(world.parameters, flat)[0]
    names: list[str] = ["click", "cart", "from_cart", "conversion", "like", "completed", "seconds"]
    total = dict.fromkeys(names, 0.0)
    for m, weight in enumerate(posterior):
        merit, worth = tables.quality[item], 0.6 * tables.worth[item]
        slope = (0.9, 0.7, 0.5)[device]
        click = sigmoid(tables.click[domain, m, k] + 0.6 * merit - slope * math.log(position))
        cart = sigmoid(tables.cart[domain, m, k] + worth)
        from_cart = sigmoid(tables.from_cart[domain, m, k] + worth)
        without = sigmoid(tables.without_cart[domain, m, k] + worth)
        beyond = (tables.length[item] - tables.stay[domain, m, k]) / 0.8
        total["click"] += weight * click
        total["cart"] += weight * click * cart
        total["from_cart"] += weight * click * cart * from_cart
        total["conversion"] += weight * click * (cart * from_cart + (1 - cart) * without)
        total["like"] += weight * sigmoid(tables.like[domain, m, k] + 0.4 * merit)
        total["completed"] += weight * click * 0.5 * math.erfc(beyond / math.sqrt(2))
        total["seconds"] += weight * click * math.exp(tables.stay[domain, m, k] + 0.8**2 / 2)
    return total


CASES = [(number, 3 * number % 200, number % 3, 1 + number % 10, number % 3) for number in range(24)]


@pytest.fixture(scope="module")
def short(world: World) -> list[list[int]]:
    """Histories of every kind: short ones, so that many personas are possible, whole ones, an empty one."""
    rows = [world.histories[number].tolist() for number, *_ in CASES]
    return [row if number % 3 == 0 else row[: number // 2] for number, row in enumerate(rows)]


def test_every_answer_equals_brute_force(world: World, short: list[list[int]]) -> None:
    _, items, domains, positions, devices = (list(column) for column in zip(*CASES, strict=True))
    answer = world.oracle_impressions(
        [[world.items[item] for item in row] for row in short],
        items=[world.target_items[item] for item in items],
        domains=[DOMAINS[domain] for domain in domains],
        positions=positions,
        devices=[DEVICES[device] for device in devices],
    )
    rows = zip(short, items, domains, positions, devices, strict=True)
    truth = [brute_force(world, *row) for row in rows]
    wanted = {name: np.array([one[name] for one in truth]) for name in truth[0]}
    for name in ("click", "cart", "from_cart", "conversion", "like"):
        np.testing.assert_allclose(getattr(answer, name), wanted[name], rtol=1e-12)
    np.testing.assert_allclose(answer.completion, wanted["completed"] / wanted["click"], rtol=1e-12)
    np.testing.assert_allclose(answer.dwell, wanted["seconds"] / wanted["click"], rtol=1e-12)
    np.testing.assert_allclose(answer.conversion_of_clicks, wanted["conversion"] / wanted["click"], rtol=1e-12)
    # The chain of ESM2 holds between the answers.
    kept, sold, other = answer.cart_of_clicks, answer.conversion_of_carts, answer.conversion_of_others
    np.testing.assert_allclose(kept * sold + (1 - kept) * other, answer.conversion_of_clicks, rtol=1e-12)


def test_without_devices_they_are_averaged(world: World, short: list[list[int]]) -> None:
    _, items, domains, positions, _ = (np.array(column) for column in zip(*CASES, strict=True))
    rows = np.arange(len(CASES))
    flat = Histories.of_lengths(np.array([i for row in short for i in row], np.int32), np.array([*map(len, short)]))

    def of(devices: np.ndarray | None) -> ImpressionProbabilities:
        return world.oracle_impressions(
            flat, items=items, domains=domains, positions=positions, devices=devices, rows=rows
        )

    each = [of(np.full(len(CASES), device)) for device in range(3)]
    for name in LABELS:
        mixed = sum(share * getattr(one, name) for share, one in zip(DEVICE_SHARES, each, strict=True))
        np.testing.assert_allclose(getattr(of(None), name), mixed, rtol=1e-12)
    assert not np.allclose(each[0].click, each[2].click)


def simulated(world: World, history: list[int], *, draws: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Labels of one impression (item 7, search, position 3, phone) of `draws` users with that history."""
    tables, k = world.impression_parameters, int(world.parameters.target.topic[7])
    flat = Histories.of_lengths(np.array(history, np.int32), np.array([len(history)]))
    m = rng.choice(world.settings.personas, draws, p=persona_posterior(world.parameters, flat)[0])

    def happens(score: np.ndarray) -> np.ndarray:
        return rng.random(draws) < 1 / (1 + np.exp(-score))

    worth = 0.6 * tables.worth[7]
    click = happens(tables.click[1, m, k] + 0.6 * tables.quality[7] - 0.9 * math.log(3))
    cart = happens(tables.cart[1, m, k] + worth)
    sale = np.where(cart, happens(tables.from_cart[1, m, k] + worth), happens(tables.without_cart[1, m, k] + worth))
    return {"click": click, "cart": click & cart, "conversion": click & sale}


def test_answers_equal_drawn_labels_of_one_impression(world: World) -> None:
    rng = np.random.default_rng(0)
    for history in ([], world.histories[0][:4].tolist()):
        drawn = simulated(world, history, draws=400_000, rng=rng)
        answer = world.oracle_impressions(
            [[world.items[item] for item in history]],
            items=["t0007"],
            domains=["search"],
            positions=[3],
            devices=["phone"],
        )
        sold = drawn["conversion"][drawn["click"]]
        for probability, observed in (
            (answer.click[0], drawn["click"]),
            (answer.cart[0], drawn["cart"]),
            (answer.conversion[0], drawn["conversion"]),
            (answer.conversion_of_clicks[0], sold),
        ):
            noise = math.sqrt(probability * (1 - probability) / len(observed))
            assert observed.mean() == pytest.approx(probability, abs=4 * noise)
        # Those who click buy otherwise than those who do not.
        assert abs(answer.conversion_of_clicks[0] / mean_conversion(world, history) - 1) > 0.05


def mean_conversion(world: World, history: list[int]) -> float:
    """p(conversion | click) of item 7 if the click said nothing of the persona."""
    tables, k = world.impression_parameters, int(world.parameters.target.topic[7])
    flat = Histories.of_lengths(np.array(history, np.int32), np.array([len(history)]))
    total = 0.0
    for m, weight in enumerate(persona_posterior(world.parameters, flat)[0]):
        worth = 0.6 * tables.worth[7]
        cart = sigmoid(tables.cart[1, m, k] + worth)
        sale = cart * sigmoid(tables.from_cart[1, m, k] + worth)
        total += weight * (sale + (1 - cart) * sigmoid(tables.without_cart[1, m, k] + worth))
    return total


@pytest.mark.parametrize("devices", [True, False])
def test_the_oracle_is_calibrated_on_the_world(world: World, devices: bool) -> None:
    drawn, answer = world.impressions, answers(world, devices=devices)
    among: dict[str, tuple[np.ndarray, np.ndarray]] = {
        name: (getattr(drawn, name), getattr(answer, name)) for name in LABELS
    }
    click = drawn.click
    among["cvr"] = (drawn.conversion[click], answer.conversion_of_clicks[click])
    among["completion"] = (drawn.completed[click], answer.completion[click])
    for name, (observed, probability) in among.items():
        for part in np.array_split(np.argsort(probability), 10):
            # Labels of a user share a persona: the tolerance is wider than that of independent ones.
            spread = math.sqrt((probability[part] * (1 - probability[part])).sum())
            assert abs(observed[part].sum() - probability[part].sum()) < 5 * spread, name
    spread = drawn.dwell[click].std() / math.sqrt(click.sum())
    assert drawn.dwell[click].mean() == pytest.approx(answer.dwell[click].mean(), abs=5 * spread)


def test_nothing_beats_the_oracle_and_the_history_pays(world: World) -> None:
    drawn, answer = world.impressions, answers(world)
    empty = Histories.of_lengths(np.zeros(0, np.int32), np.zeros(len(world.users), np.int64))
    blind = answers(world, histories=empty)
    click = drawn.click
    pairs: dict[str, tuple[np.ndarray, Callable[[ImpressionProbabilities], np.ndarray]]] = {
        "click": (click, lambda a: a.click),
        "conversion": (drawn.conversion, lambda a: a.conversion),
        "like": (drawn.like, lambda a: a.like),
        "cvr": (drawn.conversion[click], lambda a: a.conversion_of_clicks[click]),
    }
    for name, (label, of) in pairs.items():
        assert roc_auc_score(label, of(answer)) > roc_auc_score(label, of(blind)) + 0.05, name
        best = log_loss(label, of(answer))
        assert best < log_loss(label, of(blind)), name
        for twisted in (of(answer) ** 1.3, of(answer) ** 0.8, 0.7 * of(answer) + 0.3 * of(blind)):
            assert best < log_loss(label, twisted), name


def test_without_relation_the_history_says_nothing(control: World) -> None:
    empty = Histories.of_lengths(np.zeros(0, np.int32), np.zeros(len(control.users), np.int64))
    answer, blind = answers(control), answers(control, histories=empty)
    for name in LABELS:
        np.testing.assert_allclose(getattr(answer, name), getattr(blind, name), rtol=1e-12)
    related = World.generate(dataclasses.replace(control.settings, related=True))
    wrong = related.oracle_impressions(
        control.histories,
        items=control.impressions.shown.item,
        domains=control.impressions.shown.domain,
        positions=control.impressions.shown.position,
        devices=control.impressions.shown.device,
        rows=control.impressions.user,
    )
    label = control.impressions.click
    assert log_loss(label, blind.click) < log_loss(label, wrong.click) - 0.01


def test_what_the_world_does_not_have_is_named(world: World) -> None:
    good = {"items": ["t0001"], "domains": ["home"], "positions": [1], "devices": ["phone"]}
    for changed, message in (
        ({"items": ["t9999"]}, "no item of the target domain 't9999'"),
        ({"items": np.array([-1])}, "no item of the target domain -1: numbers go from 0 to 199"),
        ({"domains": ["serach"]}, r"no domain 'serach'. Did you mean 'search'\?"),
        ({"devices": np.array([3])}, "no device 3"),
        ({"positions": [0]}, "position 0: .* from 1 to 10"),
        ({"positions": [11]}, "position 11"),
        ({"positions": [1, 2]}, "2 positions"),
        ({"rows": np.array([0, 0])}, "2 rows of histories"),
    ):
        with pytest.raises(SettingsError, match=message):
            world.oracle_impressions([[]], **(good | changed))  # pyright: ignore[reportArgumentType]
    assert len(world.oracle_impressions([], items=[], domains=[], positions=[]).click) == 0
