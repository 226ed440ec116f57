"""Exact answers: what is the most that anyone could know after seeing a history."""

import numpy as np
from numpy.typing import NDArray

from peterrec.data.synthetic.histories import Histories
from peterrec.data.synthetic.parameters import Floats, Ints, Parameters


def persona_posterior(parameters: Parameters, histories: Histories) -> Floats:
    """p(persona | history), (N, M); an empty history has the prior, unknown items are left out first."""
    score = topics_log_likelihood(parameters, histories.known()) + np.log(parameters.prior)
    score -= score.max(axis=1, keepdims=True)
    posterior = np.exp(score)
    return posterior / posterior.sum(axis=1, keepdims=True)


def topics_log_likelihood(parameters: Parameters, histories: Histories) -> Floats:
    """log p(z_0, …, z_{n−1} | persona), (N, M); every item must be known. An empty history has 0.

    The items depend on topic and history alone: they add the same to each persona, and are left out.
    """
    by_length = np.argsort(-histories.lengths, kind="stable")
    lengths, begins = histories.lengths[by_length], histories.offsets[:-1][by_length]
    topic_of = parameters.source.topic[histories.items]
    total = np.zeros((len(histories), len(parameters.prior)))
    for position in range(int(lengths.max(initial=0))):
        # Rows stand in order of falling length: those that have an event here are the first ones.
        active = int(np.searchsorted(-lengths, -position))
        place = begins[:active] + position
        topic = topic_of[place]
        stay, step, skip, rest = parameters.weights(position)
        probability = (rest[:, None] * parameters.taste(position)).T[topic]
        if position >= 1:
            moved = (topic - topic_of[place - 1]) % parameters.topics
            probability += stay * (moved == 0)[:, None]
            probability += step * (moved[:, None] == parameters.direction % parameters.topics)
        for distance in np.unique(parameters.distance[parameters.distance <= position]):
            same = topic == topic_of[place - distance]
            probability += np.where(parameters.distance == distance, skip, 0.0) * same[:, None]
        total[:active] += np.log(probability)
    restored = np.empty_like(total)
    restored[by_length] = total
    return restored


def next_topic(parameters: Parameters, histories: Histories) -> Floats:
    """p(topic of the next event | history), (N, K)."""
    histories = histories.known()
    posterior = persona_posterior(parameters, histories)
    topics = parameters.source.topic[histories.items]
    result = np.zeros((len(histories), parameters.topics))
    lengths = histories.lengths
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        stay, step, skip, rest = parameters.weights(int(length))
        result[rows] = (posterior[rows] * rest) @ parameters.taste(int(length))
        if length == 0:
            continue
        end = histories.offsets[rows + 1]
        before = topics[end - 1]
        result[rows, before] += posterior[rows] @ stay
        for direction in (1, -1):
            mass = posterior[rows] @ np.where(parameters.direction == direction, step, 0.0)
            result[rows, (before + direction) % parameters.topics] += mass
        for distance in np.unique(parameters.distance[parameters.distance <= length]):
            mass = posterior[rows] @ np.where(parameters.distance == distance, skip, 0.0)
            result[rows, topics[end - distance]] += mass
    return result


def next_item(parameters: Parameters, histories: Histories, *, repeat: float) -> Floats:
    """p(next item | history), (N, items)."""
    histories = histories.known()
    topic_of = parameters.source.topic
    shape = len(histories), len(topic_of)
    item_count = _count(histories.rows, histories.items, shape)
    topic_count = _count(histories.rows, topic_of[histories.items], (len(histories), parameters.topics))
    again = repeat * (topic_count > 0)
    topic = next_topic(parameters, histories)
    fresh = (topic * (1.0 - again))[:, topic_of] * parameters.source.popularity
    return fresh + (topic * again / np.maximum(topic_count, 1))[:, topic_of] * item_count


def _count(rows: Ints, columns: NDArray[np.integer], shape: tuple[int, int]) -> Ints:
    """How often each (row, column) occurs, as a matrix of that shape."""
    return np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1]).reshape(shape)
