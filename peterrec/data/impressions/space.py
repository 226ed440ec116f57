"""Spaces of impressions: the rows on which a loss or a figure counts, such as `click == 1 and like != 1`."""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from peterrec.errors import SettingsError, did_you_mean

Column = TypeVar("Column", NDArray[Any], Tensor)

LARGEST = float(np.finfo(np.float32).max)  # that a label can be
_COMPARE: dict[str, Callable[[Any, float], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])|(?P<name>[^\W\d]\w*)"
    r"|(?P<quoted>'[^']+'|\"[^\"]+\")|(?P<comparison>==|!=|<=|>=|<|>)|(?P<other>\S))"
)


@dataclass(frozen=True)
class Term:
    """One comparison of a label with a number."""

    name: str
    comparison: str
    value: float


@dataclass(frozen=True)
class Space:
    """The rows of which all `terms` hold; a row whose label is missing (NaN) is in no space that speaks of it."""

    text: str
    terms: tuple[Term, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that it speaks of, each once, in order."""
        return tuple(dict.fromkeys(term.name for term in self.terms))

    def rows(self, labels: Mapping[str, Column]) -> Column:
        """Which of N rows are in the space: bool (N,), an array or, of tensors, a tensor on their device.

        `labels` holds a column (N,) a name. Raises SettingsError where one that the space speaks of is not there.
        """
        held = None
        for term in self.terms:
            if term.name not in labels:
                hint = did_you_mean(term.name, labels)
                raise SettingsError(f"space {self.text!r}: there is no label {term.name!r}. {hint}")
            column = labels[term.name]
            own = _COMPARE[term.comparison](column, term.value)
            if term.comparison == "!=":
                own = own & (column == column)  # of all comparisons this one alone holds for NaN
            held = own if held is None else held & own
        assert held is not None
        return held


def parse_space(text: str) -> Space:
    """The space that `text` describes: comparisons (== != < <= > >=) of a label and a number, joined by `and`.

    A name that is no single word stands in quotes. Raises SettingsError with the place of the mistake.
    """
    found = [match for match in _TOKEN.finditer(text) if match.lastgroup]

    def refuse(place: int, expected: str) -> SettingsError:
        if place < len(found):
            where = f"character {found[place].start(_group(found[place])) + 1} ({_word(found[place])!r})"
        else:
            where = "the end"
        return SettingsError(
            f"space {text!r}: at {where}: {expected}. A space is a comparison such as click == 1, or several joined "
            "by 'and'."
        )

    terms: list[Term] = []
    place = 0
    while True:
        name = found[place] if place < len(found) else None
        if name is None or _group(name) not in ("name", "quoted") or _word(name) == "and":
            raise refuse(place, "expected the name of a label")
        comparison = found[place + 1] if place + 1 < len(found) else None
        if comparison is None or _group(comparison) != "comparison":
            raise refuse(place + 1, f"expected one of {' '.join(_COMPARE)} after {_word(name)}")
        number = found[place + 2] if place + 2 < len(found) else None
        if number is None or _group(number) != "number" or abs(float(_word(number))) > LARGEST:
            raise refuse(place + 2, f"expected a number after {_word(comparison)}")
        terms.append(Term(_word(name).strip("'\""), _word(comparison), float(_word(number))))
        place += 3
        if place >= len(found):
            return Space(text, tuple(terms))
        if _word(found[place]) != "and":
            raise refuse(place, "expected 'and'")
        place += 1


def _group(match: re.Match[str]) -> str:
    assert match.lastgroup is not None
    return match.lastgroup


def _word(match: re.Match[str]) -> str:
    return match[_group(match)]
