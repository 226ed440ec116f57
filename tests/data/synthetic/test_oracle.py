"""The oracles against a slow, independent reading of the equations, and against what was generated."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from peterrec.data.synthetic import Histories, World, WorldSettings
from peterrec.errors import SettingsError

TINY = WorldSettings(
    users=24,
    items=14,
    topics=5,
    personas=16,
    mean_length=20,
    min_length=1,
    max_length=40,
    repeat=0.3,
    target_items=7,
    seed=3,
)


@pytest.fixture(scope="module")
def tiny() -> World:
    return World.generate(TINY)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(WorldSettings(users=3000, seed=11))


def topic_probability(world: World, persona: int, before: list[int], topic: int) -> float:
    """p(z_t = topic | z_<t, persona), straight from the equations; the factors come from the number."""
    parameters, t = world.parameters, len(before)
    drift, direction, rhythm = persona // 4 % 2, persona // 2 % 2, persona % 2
    stay, step, skip, s = [(0.10, 0.28, 0.20, 8), (0.24, 0.28, 0.20, 16)][rhythm]
    # Preferences of the same taste without drift, in that order: A to B.
    a, b = parameters.start[persona - 4 * drift], parameters.end[persona - 4 * drift]
    if drift:
        a, b = b, a
    w = 1 - 2 ** (-t / 15)
    taste = (1 - w) * a[topic] + w * b[topic]
    total, rest = 0.0, 1.0
    if t >= 1:
        rest -= stay + step
        total += stay * (before[-1] == topic)
        total += step * ((before[-1] + (1 if direction == 0 else -1)) % world.settings.topics == topic)
    if t >= s:
        rest -= skip
        total += skip * (before[t - s] == topic)
    return total + rest * taste


def item_probability(world: World, topics: list[int], items: list[int], item: int) -> float:
    """p(item | its topic, history)."""
    source = world.parameters.source
    topic = int(source.topic[item])
    in_topic, same = topics.count(topic), items.count(item)
    repeat = world.settings.repeat if in_topic else 0.0
    return (1 - repeat) * source.popularity[item] + (repeat * same / in_topic if in_topic else 0.0)


def brute_posterior(world: World, history: list[int]) -> np.ndarray:
    """p(persona | history) from the full likelihood of topics and items."""
    logs = []
    for persona in range(world.settings.personas):
        topics: list[int] = []
        total = 0.0
        for place, item in enumerate(history):
            topic = int(world.parameters.source.topic[item])
            total += math.log(topic_probability(world, persona, topics, topic))
            total += math.log(item_probability(world, topics, history[:place], item))
            topics.append(topic)
        logs.append(total)
    weights = np.exp(np.array(logs) - max(logs))
    return weights / weights.sum()


def some_histories(world: World) -> list[list[int]]:
    """Whole histories, prefixes of every length of the longest one, and an empty one."""
    rows = [world.histories[row].tolist() for row in range(12)]
    longest = max((world.histories[row].tolist() for row in range(len(world.histories))), key=len)
    assert len(longest) > 20, "the skips must be at work"
    return [*rows, *(longest[:length] for length in range(0, len(longest), 3))]


def flat(histories: list[list[int]]) -> Histories:
    items = np.array([item for row in histories for item in row], np.int32)
    return Histories.of_lengths(items, np.array([len(row) for row in histories]))


@pytest.mark.parametrize("column", ["gender", "age", "occupation"])
def test_attribute_posteriors_equal_brute_force(tiny: World, column: str) -> None:
    histories = some_histories(tiny)
    expected = np.array([brute_posterior(tiny, row) for row in histories]) @ tiny.parameters.attributes[column]
    answer = tiny.oracle_attribute(column, flat(histories))
    assert answer.dtype == np.float64
    assert answer.shape == (len(histories), len(tiny.classes(column)))
    np.testing.assert_allclose(answer, expected, atol=1e-12)
    ids = [[tiny.items[item] for item in row] for row in histories]
    np.testing.assert_array_equal(tiny.oracle_attribute(column, ids), answer)


def test_next_item_equals_brute_force(tiny: World) -> None:
    histories = some_histories(tiny)
    answer = tiny.oracle_next_item(flat(histories))
    np.testing.assert_allclose(answer.sum(axis=1), 1.0, atol=1e-12)
    topic_of = tiny.parameters.source.topic
    for row, history in enumerate(histories):
        posterior = brute_posterior(tiny, history)
        topics = [int(topic_of[item]) for item in history]
        expected = [
            item_probability(tiny, topics, history, item)
            * sum(
                posterior[persona] * topic_probability(tiny, persona, topics, int(topic_of[item]))
                for persona in range(TINY.personas)
            )
            for item in range(TINY.items)
        ]
        np.testing.assert_allclose(answer[row], expected, atol=1e-12)


def test_target_item_equals_brute_force(tiny: World) -> None:
    histories = some_histories(tiny)
    parameters = tiny.parameters
    answer = tiny.oracle_target_item(flat(histories))
    np.testing.assert_allclose(answer.sum(axis=1), 1.0, atol=1e-12)
    for row, history in enumerate(histories[:6]):
        posterior = brute_posterior(tiny, history)
        for item in range(TINY.target_items):
            taste = posterior @ parameters.target_taste[:, parameters.target.topic[item]]
            assert answer[row, item] == pytest.approx(taste * parameters.target.popularity[item])


def test_unknown_items_are_left_out_and_nothing_is_the_prior(tiny: World) -> None:
    known = [tiny.items[item] for item in tiny.histories[0]]
    strange = ["never seen", *known[:3], "neither", *known[3:], ""]
    for answers in (
        tiny.oracle_attribute("age", [known, strange, [], ["never seen"]]),
        tiny.oracle_next_item([known, strange, [], ["never seen"]]),
        tiny.oracle_target_item([known, strange, [], ["never seen"]]),
    ):
        np.testing.assert_array_equal(answers[0], answers[1])
        np.testing.assert_array_equal(answers[2], answers[3])
        assert not np.allclose(answers[0], answers[2])
    prior = tiny.parameters.attributes["age"].mean(axis=0)
    np.testing.assert_allclose(tiny.oracle_attribute("age", [[]])[0], prior)
    assert tiny.oracle_attribute("age", []).shape == (0, 7)
    assert tiny.oracle_next_item([]).shape == (0, TINY.items)


def test_an_unknown_attribute_is_named(tiny: World) -> None:
    with pytest.raises(SettingsError, match=r"no attribute 'gendr'. Did you mean 'gender'\?"):
        tiny.oracle_attribute("gendr", [[]])


def labels_of(world: World, column: str) -> np.ndarray:
    classes = list(world.classes(column))
    return np.array([classes.index(value) for value in world.labels[column].to_pylist()])


@pytest.mark.parametrize("column", ["gender", "age", "occupation"])
def test_posteriors_are_calibrated(world: World, column: str) -> None:
    labels, posterior = labels_of(world, column), world.oracle_attribute(column, world.histories)
    right = posterior.argmax(axis=1) == labels
    assert right.mean() == pytest.approx(posterior.max(axis=1).mean(), abs=4 * 0.5 / math.sqrt(len(labels)))
    for group in (posterior.max(axis=1) < 0.7, posterior.max(axis=1) >= 0.7):
        noise = 4 * 0.5 / math.sqrt(group.sum())
        assert right[group].mean() == pytest.approx(posterior[group].max(axis=1).mean(), abs=noise)


def before_last(world: World) -> tuple[Histories, np.ndarray]:
    """All histories without their last event, and that event."""
    histories = world.histories
    ends = histories.offsets[1:] - 1
    return Histories.of_lengths(np.delete(histories.items, ends), histories.lengths - 1), histories.items[ends]


def test_next_item_matches_what_was_generated(world: World) -> None:
    world = World.generate(dataclasses.replace(world.settings, repeat=0.4))
    histories, target = before_last(world)
    probability = world.oracle_next_item(histories)
    hit = np.zeros_like(probability)
    hit[np.arange(len(target)), target] = 1.0
    old = np.zeros_like(probability, dtype=bool)
    old[histories.rows, histories.items] = True
    topic = world.parameters.source.topic
    last_topic = topic[histories.items[histories.offsets[1:] - 1]]
    last = topic[None, :] == last_topic[:, None]
    # Each event's frequency against the sum of its probabilities, in standard deviations.
    for name, event in {"old": old, "old of the last topic": old & last, "last topic": last}.items():
        expected = (probability * event).sum(axis=1)
        deviation = ((hit * event).sum() - expected.sum()) / math.sqrt((expected * (1 - expected)).sum())
        assert abs(deviation) < 4, name
    # E p(what happens) = E Σ p²: sharp against any probability that is put on the wrong item.
    chosen, square = (probability * hit).sum(axis=1), (probability**2).sum(axis=1)
    spread = math.sqrt(((probability**3).sum(axis=1) - square**2).sum())
    assert abs(chosen.sum() - square.sum()) / spread < 4
    # χ² over the items.
    expected = probability.sum(axis=0)
    statistic = ((hit.sum(axis=0) - expected) ** 2 / (probability * (1 - probability)).sum(axis=0)).sum()
    assert abs(statistic - len(expected)) < 4 * math.sqrt(2 * len(expected))


def test_target_items_match_what_was_generated(world: World) -> None:
    probability = world.oracle_target_item(world.histories)
    user = {name: row for row, name in enumerate(world.users)}
    item = {name: row for row, name in enumerate(world.target_items)}
    first: dict[int, int] = {}
    for name, bought in zip(world.target["user"].to_pylist(), world.target["item"].to_pylist(), strict=True):
        first.setdefault(user[name], item[bought])
    chosen = probability[np.arange(len(user)), [first[row] for row in range(len(user))]]
    square = (probability**2).sum(axis=1)
    spread = math.sqrt(((probability**3).sum(axis=1) - square**2).sum())
    assert abs(chosen.sum() - square.sum()) / spread < 4
    assert square.mean() > 1.5 * (probability.mean(axis=0) ** 2).sum(), "the history must say something"


def test_order_matters_to_the_oracle(world: World) -> None:
    histories, labels = world.histories, labels_of(world, "gender")
    noise = np.random.default_rng(0).random(len(histories.items))
    shuffled = Histories(histories.items[np.lexsort((noise, histories.rows))], histories.offsets)
    kept = (world.oracle_attribute("gender", histories).argmax(axis=1) == labels).mean()
    lost = (world.oracle_attribute("gender", shuffled).argmax(axis=1) == labels).mean()
    assert 0.84 < kept < 0.93
    assert lost < kept - 0.1


def bag_of_items(world: World, column: str, *, trained: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a TF-IDF logistic regression on the users that it was not trained on."""
    texts = [" ".join(world.items[item] for item in world.histories[row]) for row in range(len(world.users))]
    labels = labels_of(world, column)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=3.0))
    model.fit(texts[:trained], labels[:trained])
    return labels[trained:], model.predict_proba(texts[trained:])


def test_a_bag_of_items_lies_between_the_majority_and_the_oracle(world: World) -> None:
    labels, bag = bag_of_items(world, "gender", trained=1500)
    oracle = world.oracle_attribute("gender", world.histories)[1500:]
    majority = np.bincount(labels).max() / len(labels)
    accuracy = (bag.argmax(axis=1) == labels).mean()
    assert 0.53 < majority < 0.65
    assert majority + 0.03 < accuracy < (oracle.argmax(axis=1) == labels).mean() - 0.1


def test_without_relation_behaviour_says_nothing_about_labels_and_target(world: World) -> None:
    control = World.generate(dataclasses.replace(world.settings, related=False))
    np.testing.assert_array_equal(control.histories.items, world.histories.items)
    np.testing.assert_array_equal(control.personas, world.personas)
    assert (control.personas == control.label_personas).mean() < 0.1
    labels, bag = bag_of_items(control, "gender", trained=1500)
    assert abs(roc_auc_score(labels, bag[:, 1]) - 0.5) < 0.06
    answer = control.oracle_attribute("gender", control.histories)
    np.testing.assert_allclose(answer, np.tile(world.parameters.attributes["gender"].mean(axis=0), (3000, 1)))
    target = control.oracle_target_item(control.histories)
    np.testing.assert_allclose(target - target[0], 0.0, atol=1e-15)
    np.testing.assert_array_equal(control.oracle_next_item([[]]), world.oracle_next_item([[]]))
