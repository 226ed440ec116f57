"""Drawing impressions: who was shown what, where, and what came of it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from peterrec.data.synthetic.impression_oracle import Shown, chances
from peterrec.data.synthetic.impression_parameters import (
    DEVICE_SHARES,
    DEVICES,
    DOMAIN_SHARES,
    DOMAINS,
    POSITIONS,
    SPREAD,
    ImpressionParameters,
    draw_normal,
)
from peterrec.data.synthetic.parameters import Catalogue, Floats, Ints

FEWEST_SHOWN = 6  # items of a list
FEWEST_LISTS, MOST_LISTS = 2, 12
ANOTHER_LIST = 2 / 3  # probability
LOYAL = 0.8  # share of the lists that are read on the user's own device
_CELLS = 1 << 22  # lists times items that are drawn at a time


@dataclass(frozen=True, eq=False)
class Impressions:
    """N impressions in order of time: `user` and `time` (N,), what was `shown`, and what came of it.

    `click`, `cart`, `conversion`, `like` are bool (N,); `dwell` (seconds, to a tenth) and `completed` (bool) mean
    something where there was a click.
    """

    user: Ints
    time: Ints
    shown: Shown
    click: NDArray[np.bool_]
    cart: NDArray[np.bool_]
    conversion: NDArray[np.bool_]
    like: NDArray[np.bool_]
    dwell: Floats
    completed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.user)

    def table(self, *, users: list[str], items: list[str]) -> pa.Table:
        """The columns as a table; `dwell` and `completion` are null where there was no click."""
        shown = self.shown
        return pa.table(
            {
                "user": pa.array(users, pa.string()).take(pa.array(self.user)),
                "item": pa.array(items, pa.string()).take(pa.array(shown.item)),
                "time": self.time,
                "domain": pa.array(DOMAINS).take(pa.array(shown.domain)),
                "position": shown.position,
                "device": pa.array(DEVICES).take(pa.array(shown.device)),
                "click": self.click.astype(np.int64),
                "cart": self.cart.astype(np.int64),
                "conversion": self.conversion.astype(np.int64),
                "like": self.like.astype(np.int64),
                "dwell": pa.array(self.dwell, mask=~self.click),
                "completion": pa.array(self.completed.astype(np.int64), mask=~self.click),
            }
        )


def draw_impressions(
    parameters: ImpressionParameters, *, target: Catalogue, personas: Ints, last: Ints, rng: np.random.Generator
) -> Impressions:
    """Impressions of users of the given personas (N,), after the `last` second of their histories (N,)."""
    user, begin, domain, device, length = _draw_lists(last, most=min(POSITIONS, len(target.topic)), rng=rng)
    item = _draw_items(length, target=target, quality=parameters.quality, rng=rng)
    of = np.repeat(np.arange(len(length)), length)  # the list of each impression
    position = 1 + np.arange(len(of)) - np.repeat(np.cumsum(length) - length, length)
    order = np.argsort(begin[of], kind="stable")
    of, item, position = of[order], item[order], position[order]
    shown = Shown(item=item, topic=target.topic[item], domain=domain[of], position=position, device=device[of])

    chance = chances(parameters, shown, personas[user[of]][:, None])
    uniform = rng.random((4, len(of)))
    click = uniform[0] < chance.click[:, 0]
    cart = click & (uniform[1] < chance.cart[:, 0])
    sale = np.where(cart, chance.from_cart[:, 0], chance.without_cart[:, 0])
    stayed = chance.stay[:, 0] + SPREAD * draw_normal((len(of),), rng=rng)
    return Impressions(
        user=user[of],
        time=begin[of],
        shown=shown,
        click=click,
        cart=cart,
        conversion=click & (uniform[2] < sale),
        like=uniform[3] < chance.like[:, 0],
        dwell=np.exp(stayed).round(1),
        completed=stayed >= parameters.length[item],
    )


def _draw_lists(last: Ints, *, most: int, rng: np.random.Generator) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """The lists that users open, user after user: user, second, domain, device and number of items of each."""
    more = np.floor(np.log1p(-rng.random(len(last))) / np.log(ANOTHER_LIST)).astype(np.int64)
    lists = np.minimum(FEWEST_LISTS + more, MOST_LISTS)
    user = np.repeat(np.arange(len(last)), lists)
    own_device = _pick(DEVICE_SHARES, rng.random(len(last)))
    gap, place, kept, other, size = rng.random((5, len(user)))
    passed = np.cumsum(600 + (1.5 * 86_400 * -np.log1p(-gap)).astype(np.int64))
    before = np.concatenate([[0], passed])[np.cumsum(lists) - lists]
    fewest = min(FEWEST_SHOWN, most)
    return (
        user,
        last[user] + passed - np.repeat(before, lists),
        _pick(DOMAIN_SHARES, place),
        np.where(kept < LOYAL, own_device[user], _pick(DEVICE_SHARES, other)),
        fewest + np.minimum((size * (most - fewest + 1)).astype(np.int64), most - fewest),
    )


def _draw_items(length: Ints, *, target: Catalogue, quality: Floats, rng: np.random.Generator) -> Ints:
    """The items of lists of the given lengths, list after list, as they stand in it.

    A list holds different items, drawn by popularity within their topics, and shows them in the order of quality and
    luck: the position tells of the item, and of nothing else.
    """
    items = len(target.topic)
    longest = int(length.max(initial=0))
    step = max(1, _CELLS // items)
    found = []
    for begin in range(0, len(length), step):
        sizes = length[begin : begin + step, None]
        # The first arrivals of one process an item: draws without replacement.
        arrival = -np.log1p(-rng.random((len(sizes), items))) / target.popularity
        chosen = np.argsort(arrival, axis=1, kind="stable")[:, :longest]
        rank = quality[chosen] + draw_normal(chosen.shape, rng=rng)
        rank = np.where(np.arange(longest) < sizes, rank, -np.inf)
        chosen = np.take_along_axis(chosen, np.argsort(-rank, axis=1, kind="stable"), axis=1)
        found.append(chosen[np.arange(longest) < sizes])
    return np.concatenate(found)


def _pick(shares: tuple[float, ...], uniform: Floats) -> Ints:
    """Numbers of classes (N,) with the given shares."""
    return np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), len(shares) - 1)
