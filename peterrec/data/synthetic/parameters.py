"""The world's parameters: which item belongs where, what each persona likes, does and is."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from peterrec.data.synthetic.settings import WorldSettings

GENDERS = ("f", "m")
AGES = (1, 18, 25, 35, 45, 50, 56)
OCCUPATIONS = ("artist", "clerk", "engineer", "farmer", "nurse", "scientist", "student", "teacher")

# (stay, step, skip, distance of the skip) of each rhythm.
RHYTHMS = ((0.10, 0.28, 0.20, 8), (0.24, 0.28, 0.20, 16))
HALF_LIFE = 15.0  # events until the taste has gone half of its way
LIKED = 0.8  # the share of a preference that falls on its liked topics
TARGET_LIKED = 0.8

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Items of one domain: `topic` (items,) and `popularity` q (items,), which sums to 1 in each topic.

    `by_topic` (items,) lists the items topic after topic, those of topic k from `starts[k]` to
    `starts[k + 1]`.
    """

    topic: Ints
    popularity: Floats
    by_topic: Ints
    starts: Ints

    @classmethod
    def draw(cls, items: int, *, topics: int, zipf: float, rng: np.random.Generator) -> "Catalogue":
        """Deal the items out to the topics at random, and rank them within each topic at random."""
        shuffled = np.argsort(rng.random(items), kind="stable")
        topic = np.empty(items, np.int64)
        weight = np.empty(items)
        topic[shuffled] = np.arange(items) % topics
        weight[shuffled] = (1.0 + np.arange(items) // topics) ** -zipf
        popularity = weight / np.bincount(topic, weight, topics)[topic]
        starts = np.concatenate([[0], np.cumsum(np.bincount(topic, minlength=topics))])
        return cls(topic, popularity, np.lexsort((-popularity, topic)), starts)


@dataclass(frozen=True, eq=False)
class Parameters:
    """What is fixed before the first user is drawn; M personas, K topics, C classes of an attribute.

    `prior` (M,); `start` and `end` (M, K): the preferences between which the taste drifts; `stay`, `step`,
    `skip` (M,): weights of the mixture; `distance` (M,): of the skip, in events; `direction` (M,): +1 or −1;
    `classes` and `attributes`: for each column the classes and p(class | persona) (M, C); `target_taste` (M,
    K).
    """

    prior: Floats
    start: Floats
    end: Floats
    stay: Floats
    step: Floats
    skip: Floats
    distance: Ints
    direction: Ints
    classes: dict[str, tuple[Any, ...]]
    attributes: dict[str, Floats]
    target_taste: Floats
    source: Catalogue
    target: Catalogue

    @property
    def topics(self) -> int:
        """K."""
        return self.start.shape[1]

    def taste(self, position: int) -> Floats:
        """θ at a position of the history, (M, K)."""
        gone = 1.0 - 2.0 ** (-position / HALF_LIFE)
        return (1.0 - gone) * self.start + gone * self.end

    def weights(self, position: int) -> tuple[Floats, Floats, Floats, Floats]:
        """(stay, step, skip, rest) at a position of the history, each (M,)."""
        stay, step = (self.stay, self.step) if position >= 1 else (0.0 * self.stay, 0.0 * self.step)
        skip = np.where(position >= self.distance, self.skip, 0.0)
        return stay, step, skip, 1.0 - stay - step - skip

    @classmethod
    def draw(cls, settings: WorldSettings, *, rng: np.random.Generator) -> "Parameters":
        """Draw a world's parameters; only uniform numbers are drawn, so that numpy's versions agree."""
        personas, topics = settings.personas, settings.topics
        source = Catalogue.draw(settings.items, topics=topics, zipf=settings.zipf, rng=rng)
        target = Catalogue.draw(settings.target_items, topics=topics, zipf=settings.zipf, rng=rng)
        persona = np.arange(personas)
        taste, drift, direction, rhythm = persona // 8, persona // 4 % 2, persona // 2 % 2, persona % 2

        popular = (1.0 + np.argsort(rng.random(topics), kind="stable")) ** -0.5
        popular /= popular.sum()
        # Two preferences a taste; their liked topics do not overlap as long as there are enough topics.
        sides = 2 * (personas // 8)
        liked = max(1, topics // max(8, sides))
        dealt = np.argsort(rng.random(topics), kind="stable")
        sets = dealt[np.arange(sides * liked).reshape(sides, liked) % topics]
        first = _preferences(sets[0::2], popular=popular, share=LIKED)[taste]
        second = _preferences(sets[1::2], popular=popular, share=LIKED)[taste]
        # The target domain hangs on the taste, the drift and the direction.
        order = np.argsort(rng.random((personas // 2, topics)), axis=1, kind="stable")
        target_taste = _preferences(order[:, : max(2, topics // 5)], popular=popular, share=TARGET_LIKED)[persona // 2]

        stay, step, skip, distance = (np.array(column)[rhythm] for column in zip(*RHYTHMS, strict=True))
        backwards = (drift == 1)[:, None]
        return cls(
            prior=np.full(personas, 1.0 / personas),
            start=np.where(backwards, second, first),
            end=np.where(backwards, first, second),
            stay=stay,
            step=step,
            skip=skip,
            distance=distance,
            direction=np.where(direction == 0, 1, -1),
            classes={"gender": GENDERS, "age": AGES, "occupation": OCCUPATIONS},
            attributes={
                "gender": _gender(taste, drift, direction, rhythm),
                "age": _age(taste, rhythm),
                "occupation": _occupation(taste, drift, direction),
            },
            target_taste=target_taste,
            source=source,
            target=target,
        )


def _preferences(liked: Ints, *, popular: Floats, share: float) -> Floats:
    """Preferences (rows, K): `share` goes to the liked topics (rows, liked), the rest to the popular ones."""
    preferences = np.repeat((1.0 - share) * popular[None, :], len(liked), axis=0)
    np.put_along_axis(
        preferences, liked, np.take_along_axis(preferences, liked, axis=1) + share / liked.shape[1], axis=1
    )
    return preferences


def _gender(taste: Ints, drift: Ints, direction: Ints, rhythm: Ints) -> Floats:
    """p(gender | persona), (M, 2)."""
    sign = [2.0 * factor - 1.0 for factor in (taste % 2, drift, direction, rhythm)]
    score = -1.1 + 2.1 * sign[0] + 2.6 * sign[1] + 2.4 * sign[2] + 0.8 * sign[3]
    female = 1.0 / (1.0 + np.exp(-score))
    return np.stack([female, 1.0 - female], axis=1)


def _age(taste: Ints, rhythm: Ints) -> Floats:
    """p(age | persona), (M, 7): around a centre that rises with the taste and the rhythm."""
    centre = 4.5 * taste / max(1, taste.max()) + 1.5 * rhythm
    weight = 0.02 + np.exp(-0.5 * ((np.arange(len(AGES)) - centre[:, None]) / 0.6) ** 2)
    return weight / weight.sum(axis=1, keepdims=True)


def _occupation(taste: Ints, drift: Ints, direction: Ints) -> Floats:
    """p(occupation | persona), (M, 8): 70 % on one class, the rest spread evenly."""
    classes = len(OCCUPATIONS)
    table = np.full((len(taste), classes), 0.3 / classes)
    table[np.arange(len(taste)), (2 * taste + drift + 3 * direction) % classes] += 0.7
    return table
