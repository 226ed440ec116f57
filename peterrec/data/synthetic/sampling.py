"""Drawing users: all users at once, one step of time after the other."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.synthetic.histories import Histories
from peterrec.data.synthetic.parameters import Catalogue, Floats, Ints, Parameters
from peterrec.data.synthetic.settings import WorldSettings

FIRST_SECOND = 1_672_531_200  # 2023-01-01 UTC
SPREAD = 300 * 86_400  # seconds over which users arrive
MOST_TARGET_EVENTS = 8


def draw_lengths(settings: WorldSettings, *, rng: np.random.Generator) -> Ints:
    """Events of each user, (N,): log-normal, clipped."""
    sigma = 0.6
    one, two = rng.random((2, settings.users))
    normal = np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * two)
    length = settings.mean_length * np.exp(sigma * normal - sigma**2 / 2)
    return np.clip(np.rint(length), settings.min_length, settings.max_length).astype(np.int64)


def draw_histories(
    parameters: Parameters, *, personas: Ints, lengths: Ints, repeat: float, rng: np.random.Generator
) -> Histories:
    """The histories of N users of the given personas (N,) and lengths (N,)."""
    by_length = np.argsort(-lengths, kind="stable")
    persona, length = personas[by_length], lengths[by_length]
    longest = int(length.max(initial=0))
    topics = np.zeros((len(length), longest), np.int16)
    items = np.zeros((len(length), longest), np.int32)
    for position in range(longest):
        # Users stand in order of falling length: those who still act are the first ones.
        active = int(np.searchsorted(-length, -position))
        uniform = rng.random((5, active))
        topic = _next_topic(parameters, persona[:active], topics[:active, :position], uniform[:2])
        topics[:active, position] = topic
        items[:active, position] = draw_items(parameters.source, topic, uniform[2])
        _repeat_earlier(items[:active], topics[:active], position, uniform[3] < repeat, uniform[4])
    restored = np.empty_like(items)
    restored[by_length] = items
    flat = restored[np.arange(longest) < lengths[:, None]]
    return Histories.of_lengths(flat, lengths)


def _next_topic(parameters: Parameters, persona: Ints, topics: NDArray[np.int16], uniform: Floats) -> Ints:
    """The next topic (N,) after the topics so far (N, t); `uniform` (2, N) picks component and topic."""
    position = topics.shape[1]
    stay, step, skip, _ = parameters.weights(position)
    cumulative = np.cumsum(parameters.taste(position), axis=1)[persona]
    last = parameters.topics - 1
    topic = np.minimum((cumulative <= uniform[1][:, None]).sum(axis=1), last)
    if position == 0:
        return topic
    before = topics[:, position - 1].astype(np.int64)
    distance = np.minimum(parameters.distance[persona], position)
    skipped = topics[np.arange(len(topics)), position - distance].astype(np.int64)
    stepped = (before + parameters.direction[persona]) % parameters.topics
    first, second, third = stay[persona], (stay + step)[persona], (stay + step + skip)[persona]
    component = uniform[0]
    return np.select([component < first, component < second, component < third], [before, stepped, skipped], topic)


def draw_items(catalogue: Catalogue, topic: Ints, uniform: Floats) -> Ints:
    """Items (N,) of the given topics (N,) by popularity, from `uniform` numbers (N,)."""
    ladder = np.cumsum(catalogue.popularity[catalogue.by_topic])
    place = np.searchsorted(ladder, topic + uniform, side="right")
    # The sums are rounded: stay within the topic.
    place = np.clip(place, catalogue.starts[topic], catalogue.starts[topic + 1] - 1)
    return catalogue.by_topic[place]


def _repeat_earlier(
    items: NDArray[np.int32],
    topics: NDArray[np.int16],
    position: int,
    wanted: NDArray[np.bool_],
    uniform: Floats,
) -> None:
    """Where wanted, put the item of an earlier event of the same topic, if there is one, at `position`."""
    rows = np.flatnonzero(wanted)
    same = topics[rows, :position] == topics[rows, position][:, None]
    count = same.sum(axis=1)
    rows, same, count = rows[count > 0], same[count > 0], count[count > 0]
    chosen = np.minimum((uniform[rows] * count).astype(np.int64), count - 1)
    if len(rows):
        earlier = np.argmax(np.cumsum(same, axis=1) == (chosen + 1)[:, None], axis=1)
        items[rows, position] = items[rows, earlier]


def draw_times(lengths: Ints, *, ties: float, rng: np.random.Generator) -> Ints:
    """Seconds since 1970 of each event, (events,): sittings of a few minutes, days apart, with ties."""
    events = int(lengths.sum())
    arrival = FIRST_SECOND + (SPREAD * rng.random(len(lengths))).astype(np.int64)
    kind, size = rng.random((2, events))
    exponential = -np.log1p(-size)
    within = 1 + (90 * exponential).astype(np.int64)
    between = 3_600 + (2 * 86_400 * exponential).astype(np.int64)
    gap = np.select([kind < ties, kind < ties + 0.8 * (1 - ties)], [0, within], between)
    begins = np.concatenate([[0], np.cumsum(lengths)])[:-1]
    gap[begins] = 0
    since = np.cumsum(gap)
    return since - np.repeat(since[begins], lengths) + np.repeat(arrival, lengths)


def draw_attribute(table: Floats, *, personas: Ints, rng: np.random.Generator) -> Ints:
    """Class numbers (N,) of users of the given personas from p(class | persona) (M, C)."""
    cumulative = np.cumsum(table, axis=1)[personas]
    drawn = (cumulative <= rng.random(len(personas))[:, None]).sum(axis=1)
    return np.minimum(drawn, table.shape[1] - 1)


def draw_target(parameters: Parameters, *, personas: Ints, rng: np.random.Generator) -> Histories:
    """The target-domain interactions of users of the given personas."""
    uniform = rng.random(len(personas))
    lengths = np.minimum(1 + np.floor(np.log1p(-uniform) / np.log(0.6)).astype(np.int64), MOST_TARGET_EVENTS)
    topic = draw_attribute(parameters.target_taste, personas=np.repeat(personas, lengths), rng=rng)
    items = draw_items(parameters.target, topic, rng.random(len(topic)))
    return Histories.of_lengths(items.astype(np.int32), lengths)
