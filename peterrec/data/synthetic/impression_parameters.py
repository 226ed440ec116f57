"""What decides on a click and what follows it: sections of the app, devices, tastes, and traits of the target items."""

from dataclasses import dataclass

import numpy as np

from peterrec.data.synthetic.parameters import Floats, Parameters
from peterrec.data.synthetic.settings import WorldSettings

DOMAINS = ("home", "search", "deals")
DOMAIN_SHARES = (0.6, 0.3, 0.1)
DEVICES = ("phone", "tablet", "desktop")
DEVICE_SHARES = (0.6, 0.1, 0.3)
POSITIONS = 10

# Logits at position 1 of an item of no merit for a user without tastes, by domain.
CLICK = (-1.0, -0.4, -1.4)
LIKE = (-2.8, -3.1, -2.4)
CART = (-2.3, -1.7, -1.2)
SALE_FROM_CART = (-1.5, -1.2, -0.8)
SALE_WITHOUT = (-4.4, -3.9, -4.1)
STAY = (3.0, 2.7, 2.4)  # mean log seconds
EXAMINED = (0.9, 0.7, 0.5)  # by device: what the logarithm of the position costs a click
OWN_TASTE = 0.3  # share of a taste's variance that is a domain's own
SPREAD = 0.8  # of log seconds

# How much tastes and traits of items weigh.
CLICK_TASTE, CLICK_QUALITY = 1.0, 0.6
LIKE_TASTE, LIKE_QUALITY = 0.9, 0.4
SALE_TASTE, SALE_WORTH = 0.9, 0.6  # of cart and sale alike
STAY_TASTE = 0.5


@dataclass(frozen=True, eq=False)
class ImpressionParameters:
    """Tables of D domains, M personas, K topics, and traits of the target items.

    `click`, `like`, `cart`, `from_cart`, `without_cart`: logits (D, M, K), the last three after a click; `stay`:
    mean log seconds after a click (D, M, K). `quality`, `worth`, `length` (the log seconds that the whole of it takes):
    (items,). `conflict` (K,): −1 for topics that are liked where they are not clicked, +1 for the others.
    """

    click: Floats
    like: Floats
    cart: Floats
    from_cart: Floats
    without_cart: Floats
    stay: Floats
    quality: Floats
    worth: Floats
    length: Floats
    conflict: Floats

    @classmethod
    def draw(
        cls, settings: WorldSettings, *, parameters: Parameters, rng: np.random.Generator
    ) -> "ImpressionParameters":
        """Draw the tables; the tastes hang on taste, drift and direction of the persona, as the target domain does."""
        personas, topics, domains = settings.personas, settings.topics, len(DOMAINS)

        def noise() -> Floats:
            """A taste (D, M, K) of variance 1 that nothing else knows: a part of all domains, a part of each one."""
            whole = draw_normal((1, personas // 2, topics), rng=rng)
            own = draw_normal((domains, personas // 2, topics), rng=rng)
            taste = np.sqrt(1.0 - OWN_TASTE) * whole + np.sqrt(OWN_TASTE) * own
            return np.repeat(taste, 2, axis=1)  # the two rhythms alike

        liked = np.log(parameters.target_taste)
        liked = (liked - liked.mean(axis=1, keepdims=True)) / liked.std(axis=1, keepdims=True)
        interest = np.sqrt(0.5) * liked + np.sqrt(0.5) * noise()
        approval, desire, patience = noise(), 0.6 * interest + 0.8 * noise(), noise()
        conflict = np.where(np.argsort(rng.random(topics), kind="stable") % 2 == 0, -1.0, 1.0)
        approval = conflict * np.sqrt(0.75) * interest + 0.5 * approval
        quality, worth, length = draw_normal((3, settings.target_items), rng=rng)
        return cls(
            click=_by_domain(CLICK) + CLICK_TASTE * interest,
            like=_by_domain(LIKE) + LIKE_TASTE * approval,
            cart=_by_domain(CART) + SALE_TASTE * desire,
            from_cart=_by_domain(SALE_FROM_CART) + SALE_TASTE * desire,
            without_cart=_by_domain(SALE_WITHOUT) + SALE_TASTE * desire,
            stay=_by_domain(STAY) + STAY_TASTE * (0.6 * approval + 0.8 * patience),
            quality=quality,
            worth=worth,
            length=3.0 + 0.6 * length,
            conflict=conflict,
        )


def draw_normal(shape: tuple[int, ...], *, rng: np.random.Generator) -> Floats:
    """Standard normal numbers from uniform ones, on which numpy's versions agree."""
    one, two = rng.random((2, *shape))
    return np.sqrt(-2.0 * np.log1p(-one)) * np.cos(2.0 * np.pi * two)


def _by_domain(values: tuple[float, ...]) -> Floats:
    return np.array(values)[:, None, None]
