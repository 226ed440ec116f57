"""Exact answers about impressions: what is the most that anyone could know before they are shown."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtr

from peterrec.data.synthetic.impression_parameters import (
    CLICK_QUALITY,
    DEVICE_SHARES,
    EXAMINED,
    LIKE_QUALITY,
    SALE_WORTH,
    SPREAD,
    ImpressionParameters,
)
from peterrec.data.synthetic.parameters import Floats, Ints

_ROWS = 1 << 14  # at a time: a table of all personas for each


@dataclass(frozen=True, eq=False)
class ImpressionProbabilities:
    """What can be known of N impressions before they are shown, each (N,).

    `click`, `cart`, `conversion` and `like` are probabilities among all impressions; `from_cart` is that of a
    conversion with the item in the cart. `completion`, and `dwell` in seconds, are expectations among the clicks.
    """

    click: Floats
    cart: Floats
    from_cart: Floats
    conversion: Floats
    like: Floats
    completion: Floats
    dwell: Floats

    @property
    def conversion_of_clicks(self) -> Floats:
        """p(conversion | click), which knows more of the persona than p(click) does: there was a click."""
        return self.conversion / self.click

    @property
    def cart_of_clicks(self) -> Floats:
        """p(cart | click)."""
        return self.cart / self.click

    @property
    def conversion_of_carts(self) -> Floats:
        """p(conversion | cart)."""
        return self.from_cart / self.cart

    @property
    def conversion_of_others(self) -> Floats:
        """p(conversion | click, no cart)."""
        return (self.conversion - self.from_cart) / (self.click - self.cart)


@dataclass(frozen=True, eq=False)
class Shown:
    """What was shown in N impressions, each (N,): `item` and its `topic`, `domain`, `position` from 1, and `device`.

    All but the position are numbers from 0; a device of −1 is not known.
    """

    item: Ints
    topic: Ints
    domain: Ints
    position: Ints
    device: Ints

    def __len__(self) -> int:
        return len(self.item)

    def __getitem__(self, rows: slice) -> "Shown":
        return Shown(self.item[rows], self.topic[rows], self.domain[rows], self.position[rows], self.device[rows])


@dataclass(frozen=True, eq=False)
class Chances:
    """What the persona decides on, of any shape: `click`, `like`, and what follows a click; `stay` in log seconds."""

    click: Floats
    like: Floats
    cart: Floats
    from_cart: Floats
    without_cart: Floats
    stay: Floats
    completion: Floats


def chances(parameters: ImpressionParameters, shown: Shown, personas: Ints) -> Chances:
    """The chances of N impressions (N, …) by `personas`: (N, 1) for the one of each row, (1, M) for all of them."""
    domain, topic, item = shown.domain[:, None], shown.topic[:, None], shown.item[:, None]
    quality, worth = parameters.quality[item], SALE_WORTH * parameters.worth[item]
    depth = np.log(shown.position)[:, None]
    wanted = parameters.click[domain, personas, topic] + CLICK_QUALITY * quality
    click = expit(wanted - np.array(EXAMINED)[shown.device][:, None] * depth)
    if (shown.device < 0).any():
        # The device says nothing about the user: it is averaged out.
        average = sum(
            share * expit(wanted - slope * depth) for share, slope in zip(DEVICE_SHARES, EXAMINED, strict=True)
        )
        click = np.where(shown.device[:, None] < 0, average, click)
    stay = parameters.stay[domain, personas, topic]
    return Chances(
        click=click,
        like=expit(parameters.like[domain, personas, topic] + LIKE_QUALITY * quality),
        cart=expit(parameters.cart[domain, personas, topic] + worth),
        from_cart=expit(parameters.from_cart[domain, personas, topic] + worth),
        without_cart=expit(parameters.without_cart[domain, personas, topic] + worth),
        stay=stay,
        completion=ndtr((stay - parameters.length[item]) / SPREAD),
    )


def probabilities(
    parameters: ImpressionParameters, shown: Shown, *, posterior: Floats, rows: Ints
) -> ImpressionProbabilities:
    """Mixes the chances over personas: impression n by p(persona | history), `posterior[rows[n]]` of (histories, M)."""
    names = ("click", "cart", "from_cart", "conversion", "like", "completion", "dwell")
    parts: dict[str, list[Floats]] = {name: [np.zeros(0)] for name in names}
    personas = np.arange(posterior.shape[1])[None, :]
    for begin in range(0, len(shown), _ROWS):
        some = slice(begin, begin + _ROWS)
        chance = chances(parameters, shown[some], personas)
        known = posterior[rows[some]]
        clicked = known * chance.click
        carted = clicked * chance.cart
        from_cart = carted * chance.from_cart
        mixed = {
            "click": clicked,
            "cart": carted,
            "from_cart": from_cart,
            "conversion": from_cart + (clicked - carted) * chance.without_cart,
            "like": known * chance.like,
            "completion": clicked * chance.completion,
            "dwell": clicked * np.exp(chance.stay + SPREAD**2 / 2.0),
        }
        for name, value in mixed.items():
            parts[name].append(value.sum(axis=1))
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    return ImpressionProbabilities(
        click=whole["click"],
        cart=whole["cart"],
        from_cart=whole["from_cart"],
        conversion=whole["conversion"],
        like=whole["like"],
        completion=whole["completion"] / whole["click"],
        dwell=whole["dwell"] / whole["click"],
    )
