"""Sums of products of probabilities, read from text."""

import re
from collections.abc import Collection
from typing import NamedTuple, NoReturn

from peterrec.errors import SettingsError, did_you_mean

Polynomial = dict[frozenset[str], int]  # products of names, and how often each is added; the empty product is 1
_TOKEN = re.compile(
    r"\s*(?:(?P<name>[^\W\d]\w*)|(?P<quoted>'[^']+'|\"[^\"]+\")|(?P<one>1(?![\w.]))|(?P<sign>[-+*()])"
    r"|(?P<other>\S)|(?P<end>\Z))"
)


def read_formula(text: str, known: Collection[str]) -> tuple[Polynomial, tuple[str, ...]]:
    """The polynomial that `text` describes over the names `known`, and its names in order.

    It may have `+`, `-`, `*`, parentheses and the number 1; a name that is no single word stands in quotes. Raises
    SettingsError, with the place, for what it cannot read or does not know, and for a name that a product has twice.
    """
    parser = _Parser(text, known)
    polynomial = parser.whole()
    return polynomial, tuple(dict.fromkeys(parser.names))


class _Token(NamedTuple):
    kind: str
    word: str
    place: int


class _Parser:
    """One method a rule of the grammar; each leaves `token` at what comes after what it read."""

    def __init__(self, text: str, known: Collection[str]):
        self.text, self.known = text, known
        self.names: list[str] = []
        self.end = 0
        self.token = self._next()

    def whole(self) -> Polynomial:
        found = self._sum()
        if self.token.kind != "end":
            self._refuse("expected +, - or *")
        return found

    def _sum(self) -> Polynomial:
        found = self._product()
        while self.token.word in ("+", "-"):
            sign = 1 if self._take().word == "+" else -1
            for product, count in self._product().items():
                found[product] = found.get(product, 0) + sign * count
        return found

    def _product(self) -> Polynomial:
        found = self._factor()
        while self.token.word == "*":
            self._take()
            here = self.token
            found = self._times(found, self._factor(), here)
        return found

    def _times(self, left: Polynomial, right: Polynomial, here: _Token) -> Polynomial:
        found: Polynomial = {}
        for one, count in left.items():
            for other, times in right.items():
                if both := one & other:
                    self._refuse(f"the product has {min(both)!r} twice, and an event happens but once", here)
                found[one | other] = found.get(one | other, 0) + count * times
        return found

    def _factor(self) -> Polynomial:
        token = self.token
        if token.kind == "one":
            self._take()
            return {frozenset(): 1}
        if token.word == "(":
            self._take()
            found = self._sum()
            if self.token.word != ")":
                self._refuse("expected a closing parenthesis")
            self._take()
            return found
        if token.kind not in ("name", "quoted"):
            self._refuse("expected a name, 1 or an opening parenthesis")
        name = token.word.strip("'\"")
        if name not in self.known:
            self._refuse(f"there is no such probability. {did_you_mean(name, self.known)}")
        self._take()
        self.names.append(name)
        return {frozenset({name}): 1}

    def _take(self) -> _Token:
        token, self.token = self.token, self._next()
        return token

    def _next(self) -> _Token:
        match = _TOKEN.match(self.text, self.end)
        assert match is not None
        assert match.lastgroup is not None
        self.end = match.end()
        return _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))

    def _refuse(self, problem: str, token: _Token | None = None) -> NoReturn:
        token = token or self.token
        where = "the end" if token.kind == "end" else f"character {token.place + 1} ({token.word!r})"
        raise SettingsError(
            f"derived probability {self.text!r}: at {where}: {problem.rstrip('.')}. It is a sum of products such as "
            "ctr * cvr, or d * b + (1 - d) * o."
        )
