"""Probabilities that follow from those of heads, in log space."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor

from peterrec.errors import SettingsError
from peterrec.heads.formula import Polynomial, read_formula
from peterrec.objectives.log_probability import LogProbability, of_logit

__all__ = ["Derived", "LogProbability", "compose", "of_logit", "parse_derived"]

MOST_NAMES = 8  # in one formula: its tree has up to two to this power of leaves

_Tree = Union["_Choice", bool]


@dataclass(frozen=True)
class _Choice:
    """A formula as an event: what becomes of it where `name` happens, and where not; a leaf says whether it did."""

    name: str
    then: _Tree
    otherwise: _Tree


@dataclass(frozen=True)
class Derived:
    """A formula over probabilities: its `text`, the `names` in it, and how to have it in log space.

    A formula that is linear in each name is p · (itself at p = 1) + (1 - p) · (itself at p = 0), and so is its
    complement. Taken apart like this name by name, neither has a difference in it: log space needs sums and
    log-sum-exps alone, and loses no digits however near 0 or 1 the probabilities are.
    """

    text: str
    names: tuple[str, ...]
    tree: _Choice

    def __call__(self, known: Mapping[str, LogProbability]) -> LogProbability:
        """The formula's value `(B,)`, by those of its names."""
        return _evaluate(self.tree, known)


def parse_derived(text: str, known: Collection[str]) -> Derived:
    """Reads a formula such as `ctr * cvr`, `d * b + (1 - d) * o` or `1 - (1 - a) * (1 - b)` over the names `known`.

    Raises SettingsError, with the place, for what it cannot read or does not know, and for formulas that are no
    probability whatever their names are, such as `a + b`: 2 where both are 1.
    """
    polynomial, names = read_formula(text, known)
    if len(names) > MOST_NAMES:
        raise SettingsError(
            f"derived probability {text!r} has {len(names)} names, more than {MOST_NAMES}: make a part of it a derived "
            "probability of its own, and name that."
        )
    tree = _tree(polynomial, names, text=text, taken={})
    if isinstance(tree, bool):
        raise SettingsError(f"derived probability {text!r} is {int(tree)} whatever its names are; leave it out.")
    return Derived(text, names, tree)


def compose(logits: Mapping[str, Tensor], derived: Mapping[str, Derived]) -> dict[str, LogProbability]:
    """The probabilities of heads, by their logits `(B,)`, then those derived from them or from a derived one before.

    Nothing is detached: the loss of a product trains all its factors (ESMM: Ma et al., SIGIR 2018; ESM2: Wen et al.,
    SIGIR 2020). In float32 at least.
    """
    found = {name: of_logit(logit) for name, logit in logits.items()}
    for name, formula in derived.items():
        assert name not in found, f"{name} stands twice"
        found[name] = formula(found)
    return found


def _evaluate(node: _Choice, known: Mapping[str, LogProbability]) -> LogProbability:
    happens: list[Tensor] = []
    fails: list[Tensor] = []
    own = known[node.name]
    for weight, branch in ((own.log_p, node.then), (own.log_not_p, node.otherwise)):
        if isinstance(branch, bool):
            (happens if branch else fails).append(weight)
        else:
            below = _evaluate(branch, known)
            happens.append(weight + below.log_p)
            fails.append(weight + below.log_not_p)
    return LogProbability(_log_sum(happens), _log_sum(fails))


def _log_sum(terms: list[Tensor]) -> Tensor:
    """Of one or two terms `(B,)`; never of none, since the branches of a choice differ."""
    return terms[0] if len(terms) == 1 else torch.logaddexp(terms[0], terms[1])


def _tree(polynomial: Polynomial, names: tuple[str, ...], *, text: str, taken: dict[str, int]) -> _Tree:
    """The polynomial by its values where each of `names` is 1 or 0: between 0 and 1 everywhere if it is so there."""
    if not names:
        value = polynomial.get(frozenset(), 0)
        if value not in (0, 1):
            where = " and ".join(f"{name} = {number}" for name, number in taken.items())
            raise SettingsError(
                f"derived probability {text!r} is no probability: it is {value}{where and f' where {where}'}. The "
                "parts of a sum must exclude each other, as in d * b + (1 - d) * o."
            )
        return bool(value)
    name, *rest = names
    then, otherwise = (
        _tree(_at(polynomial, name, number), tuple(rest), text=text, taken={**taken, name: number}) for number in (1, 0)
    )
    return then if then == otherwise else _Choice(name, then, otherwise)


def _at(polynomial: Polynomial, name: str, number: int) -> Polynomial:
    """The polynomial where `name` is `number`, 0 or 1."""
    found: Polynomial = {}
    for product, count in polynomial.items():
        if number or name not in product:
            rest = product - {name}
            found[rest] = found.get(rest, 0) + count
    return found
