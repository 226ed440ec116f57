"""What a table of impressions shall hold, as a user asks for it: `click=rating>=4`, `genres:multi`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from peterrec.data.impressions.schema import KINDS, Compare, Kind, LabelRule, SplitName, SplitRule
from peterrec.data.logs.columns import TimeUnit
from peterrec.errors import SettingsError, did_you_mean

_LABEL = re.compile(r"(?P<name>[^=<>!]+?)\s*(?:=(?!=)\s*(?P<rest>.*))?", re.DOTALL)
_RULE = re.compile(r"(?P<column>[^=<>!]+?)\s*(?P<compare>>=|<=|==|!=|>|<)\s*(?P<value>[^=<>!].*)", re.DOTALL)
_EXAMPLES = "write a column (click), a name for one (click=clicked), or a rule (click=rating>=4)"
DEFAULT_FRACTIONS = (0.7, 0.1, 0.2)
SPLITS: tuple[SplitName, ...] = ("each_user", "rows", "by_user", "temporal")


@dataclass(frozen=True)
class WantedField:
    """A field by the name of its column; without a kind its values tell it."""

    name: str
    kind: Kind | None = None


@dataclass(frozen=True)
class Wanted:
    """Labels, fields and roles of columns. Raises SettingsError where they contradict each other."""

    labels: tuple[LabelRule, ...]
    fields: tuple[WantedField, ...]
    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: TimeUnit = "auto"
    domain: str | None = None
    weight: str | None = None
    split: SplitRule = field(default_factory=lambda: SplitRule(name="rows"))

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.labels]
        if not names:
            raise SettingsError(f"no label is named; {_EXAMPLES} with --label.")
        _refuse_twice([f"--label {name}" for name in names])
        _refuse_twice([f"--field {one.name}" for one in self.fields])
        of_label = {rule.column: rule.name for rule in self.labels} | {name: name for name in names}
        for option, column in [("--field", one.name) for one in self.fields] + [("--domain", self.domain)]:
            if column in of_label:
                what = "is a label" if column in names else f"is the column of the label {of_label[column]!r}"
                raise SettingsError(
                    f"{option} {column}: {what}, so the network would read what it is to predict; leave it out."
                )
        if self.time is None and self.time_unit != "auto":
            raise SettingsError(f"--time-unit {self.time_unit} needs --time, the column that it is about.")
        needs = {"each_user": ("user", "time"), "by_user": ("user",), "temporal": ("time",), "rows": ()}
        lacking = [f"--{role}" for role in needs[self.split.name] if getattr(self, role) is None]
        if lacking:
            raise SettingsError(
                f"--split {self.split.name} needs {' and '.join(lacking)}; name the column, or choose another split "
                f"({', '.join(SPLITS)})."
            )


def split_rule(name: str | None, *, fractions: Sequence[float] | None, user: bool, time: bool) -> SplitRule:
    """The rule of that name; by default `each_user` where rows have a user and a time, else `rows`.

    Raises SettingsError for an unknown name or wrong fractions.
    """
    if name is None:
        name = "each_user" if user and time else "rows"
    if name not in SPLITS:
        raise SettingsError(f"--split {name}: impressions have no such split. {did_you_mean(name, SPLITS)}")
    shares = DEFAULT_FRACTIONS if fractions is None else tuple(fractions)
    if len(shares) != 3 or not all(0 < share < 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise SettingsError(
            f"--fractions {','.join(f'{share:g}' for share in shares)}: expected three shares above 0 that sum to 1 "
            "(training, validation, test), such as 0.7,0.1,0.2."
        )
    return SplitRule(name=cast(SplitName, name), fractions=cast(tuple[float, float, float], shares))


def parse_label(text: str) -> LabelRule:
    """`NAME`, `NAME=COLUMN` or `NAME=COLUMN OP VALUE`; a value that is no number compares as text, by == and !=.

    Raises SettingsError for anything else.
    """
    found = _LABEL.fullmatch(text.strip())
    if found is None or found["rest"] == "":
        raise SettingsError(f"--label {text!r} cannot be read; {_EXAMPLES}.")
    name, rest = found["name"], found["rest"]
    if rest is None:
        return LabelRule(name=name, column=name)
    rest = rest.strip()
    rule = _RULE.fullmatch(rest)
    if rule is None:
        if set(rest) & set("=<>!"):
            raise SettingsError(
                f"--label {text!r}: {rest!r} is neither a column nor COLUMN OP VALUE, where OP is one of >= > == <= < "
                f"!=; {_EXAMPLES}."
            )
        return LabelRule(name=name, column=rest)
    compare, value = cast(Compare, rule["compare"]), rule["value"].strip()
    try:
        return LabelRule(name=name, column=rule["column"], compare=compare, value=float(value))
    except ValueError:
        pass  # not a finite number: text
    if compare not in ("==", "!="):
        raise SettingsError(f"--label {text!r}: {value!r} is no number, and text compares by == and != alone.")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return LabelRule(name=name, column=rule["column"], compare=compare, value=value)


def parse_field(text: str) -> WantedField:
    """`NAME` or `NAME:KIND`; a column whose own name holds a colon has its kind behind it. Raises SettingsError."""
    name, colon, kind = text.strip().rpartition(":")
    if not colon:
        name, kind = kind, ""
    if not name or (colon and kind not in KINDS):
        reason = f"{kind!r} is no kind of field. {did_you_mean(kind, KINDS)}" if name else "expected NAME or NAME:KIND."
        raise SettingsError(f"--field {text!r}: {reason}")
    return WantedField(name, cast(Kind, kind) if colon else None)


def _refuse_twice(options: list[str]) -> None:
    for place, option in enumerate(options):
        if option in options[:place]:
            raise SettingsError(f"{option} is given twice.")
